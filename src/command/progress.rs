//! How far something is: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::tell;

/// How often the bar moves when nothing happens, so that one sees it wait and not hang.
const TICK: Duration = Duration::from_millis(200);
/// Where there is no terminal, a line this often: a log that shows progress and does not drown in it.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one thing. Gone from the terminal when it is dropped.
pub(super) struct Progress {
    what: String,
    bar: ProgressBar,
    last_line: Instant,
}

impl Progress {
    /// Of something of which it is known how much there is, or not yet.
    pub(super) fn begin(what: String, total: Option<u64>, template: &str) -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style(template));
        bar.set_prefix(what.clone());
        bar.enable_steady_tick(TICK);
        Self { what, bar, last_line: Instant::now() }
    }

    /// It is known how much there is: it was not before, or it was taken for something else.
    pub(super) fn set_total(&mut self, total: u64, template: &str) {
        if self.bar.length().is_none() {
            self.bar.set_style(style(template));
        }
        self.bar.set_length(total);
    }

    /// So much is done, which is said like that on a terminal and in a line.
    pub(super) fn show(&mut self, done: u64, message: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_position(done);
            self.bar.set_message(message());
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            let share = self.bar.length().filter(|&total| total > 0);
            let share = share.map(|total| format!(", {} %", 100 * done.min(total) / total)).unwrap_or_default();
            tell(&format!("{}: {}{share}", self.what, message()));
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
