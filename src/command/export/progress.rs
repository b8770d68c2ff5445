//! How far an export or its download is: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use super::Progress;
use crate::command::tell;

/// How often the bar moves when nothing arrives, so that one sees it wait and not hang.
const TICK: Duration = Duration::from_millis(200);
/// Where there is no terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one thing.
pub(super) struct Bar {
    what: String,
    bar: ProgressBar,
    last_line: Instant,
}

impl Bar {
    /// Of the making of a file, of which nobody knows yet how large it gets.
    pub(super) fn of_making(what: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_style(style("{prefix} {spinner}  {msg}"));
        bar.set_message("waiting for a worker");
        Self::new(bar, format!("making {what}"))
    }

    /// Of a download of so many bytes.
    pub(super) fn of_download(size: u64) -> Self {
        let style = style("{prefix} {wide_bar} {percent:>3}%  {bytes}, {bytes_per_sec}");
        Self::new(ProgressBar::new(size).with_style(style), "downloading".to_owned())
    }

    fn new(bar: ProgressBar, what: String) -> Self {
        // Hidden by itself where standard error is no terminal.
        bar.set_prefix(what.clone());
        bar.enable_steady_tick(TICK);
        Self { what, bar, last_line: Instant::now() }
    }

    /// So much is made.
    pub(super) fn show(&mut self, progress: &Progress) {
        let rows = HumanCount(progress.rows);
        let message = match progress.estimated_rows {
            Some(estimate) => {
                if self.bar.length().is_none() {
                    self.bar.set_style(style("{prefix} {wide_bar}  {msg}"));
                }
                // An estimate is one: as long as there are rows to come, it is not the end.
                self.bar.set_length(estimate.max(progress.rows + 1));
                self.bar.set_position(progress.rows);
                format!("{rows} rows of about {}, {}", HumanCount(estimate), HumanBytes(progress.bytes))
            }
            None => format!("{rows} rows, {}", HumanBytes(progress.bytes)),
        };
        self.line(&message);
        self.bar.set_message(message);
    }

    /// So many bytes have arrived.
    pub(super) fn arrived(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if let Some(size) = self.bar.length() {
            self.line(&format!("{} of {}", HumanBytes(bytes), HumanBytes(size)));
        }
    }

    fn line(&mut self, message: &str) {
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_INTERVAL {
            tell(&format!("{}: {message}", self.what));
            self.last_line = Instant::now();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
