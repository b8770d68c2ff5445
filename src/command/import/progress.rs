//! How far an import has come: a bar on a terminal, a line now and then elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::source::Source;
use crate::command::tell;

/// How often the bar moves when no rows arrive, so that one sees it wait and not hang.
const TICK: Duration = Duration::from_millis(200);
/// Where there is no terminal, a line this often: a log that shows progress and does not drown in it.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one file.
pub(super) struct Progress {
    kind: &'static str,
    name: String,
    bytes: Option<u64>,
    read: Arc<AtomicU64>,
    begin: Instant,
    last_line: Instant,
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn begin(kind: &'static str, source: &Source) -> Self {
        // Both are hidden by themselves where standard error is no terminal.
        let bar = match source.bytes {
            Some(bytes) => ProgressBar::new(bytes).with_style(style("{prefix} {wide_bar} {percent:>3}%  {msg}")),
            None => ProgressBar::new_spinner().with_style(style("{prefix} {spinner}  {msg}")),
        };
        bar.set_prefix(format!("{kind} from {}", source.name));
        bar.enable_steady_tick(TICK);
        let begin = Instant::now();
        Self {
            kind,
            name: source.name.clone(),
            bytes: source.bytes,
            read: Arc::clone(&source.read),
            begin,
            last_line: begin,
            bar,
        }
    }

    /// So many rows were read.
    pub(super) fn rows(&mut self, rows: u64) {
        let message = || format!("{} rows, {} rows/s", HumanCount(rows), rate(rows, self.begin.elapsed()));
        if !self.bar.is_hidden() {
            self.bar.set_position(self.read.load(Ordering::Relaxed));
            self.bar.set_message(message());
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            let share = self
                .bytes
                .filter(|&bytes| bytes > 0)
                .map(|bytes| format!(", {} %", 100 * self.read.load(Ordering::Relaxed).min(bytes) / bytes));
            tell(&format!("{} from {}: {}{}", self.kind, self.name, message(), share.unwrap_or_default()));
            self.last_line = Instant::now();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Rows a second, to read.
pub(super) fn rate(rows: u64, time: Duration) -> HumanCount {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "to read")]
    HumanCount((rows as f64 / time.as_secs_f64().max(1e-3)).round() as u64)
}
