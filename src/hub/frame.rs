//! What goes over the wire: server-sent events (WHATWG HTML, "Server-sent events"), encoded once for all who get them.

use std::io::Write;

use bytes::Bytes;
use chrono::SecondsFormat;
use serde::Serialize;
use uuid::Uuid;

use crate::statistics::{Calendar, Extent, SeriesKey, UnixMillis, date_time};

/// A bucket in a message.
#[derive(Debug, Serialize)]
struct Bucket {
    time: String,
    count: i64,
}

/// Several messages, one after the other.
///
/// Only the last one has an id: whoever loses the connection between them is where it was before.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    messages: usize,
}

impl Frame {
    /// Adds a message; unnamed ones arrive at `EventSource.onmessage`.
    fn message(&mut self, event: Option<&str>, data: &impl Serialize) {
        if self.messages > 0 {
            self.bytes.push(b'\n');
        }
        self.messages += 1;
        if let Some(event) = event {
            self.line("event", event);
        }
        self.bytes.extend_from_slice(b"data: ");
        // Writing these plain structures to memory cannot fail, and JSON has no line breaks.
        let _ = serde_json::to_writer(&mut self.bytes, data);
        self.bytes.push(b'\n');
    }

    /// With an id the last message says that its reader has been told everything up to there.
    pub(super) fn finish(mut self, id: Option<&str>) -> Bytes {
        if self.messages > 0 {
            if let Some(id) = id {
                self.line("id", id);
            }
            self.bytes.push(b'\n');
        }
        self.bytes.into()
    }

    fn line(&mut self, field: &str, value: &str) {
        let _ = writeln!(self.bytes, "{field}: {value}");
    }

    /// Everything a subscriber has to know of a series.
    pub(super) fn snapshot(&mut self, key: &SeriesKey, now: UnixMillis, counts: &[(UnixMillis, i64)]) {
        #[derive(Serialize)]
        struct Message {
            metric: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            series: Option<&'static str>,
            resolution: &'static str,
            timezone: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            base_item_id: Option<Uuid>,
            as_of: String,
            buckets: Vec<Bucket>,
        }
        self.message(
            Some("snapshot"),
            &Message {
                metric: key.metric.name(),
                series: series_name(&key.extent),
                resolution: key.calendar.resolution.name(),
                timezone: key.calendar.zone.name(),
                base_item_id: key.base_item,
                as_of: date_time(now).to_rfc3339_opts(SecondsFormat::Millis, true),
                buckets: buckets(&key.calendar, counts),
            },
        );
    }

    /// The new counts of the buckets that changed.
    pub(super) fn update(&mut self, key: &SeriesKey, counts: &[(UnixMillis, i64)]) {
        #[derive(Serialize)]
        struct Message {
            metric: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            series: Option<&'static str>,
            buckets: Vec<Bucket>,
        }
        let message = Message {
            metric: key.metric.name(),
            series: series_name(&key.extent),
            buckets: buckets(&key.calendar, counts),
        };
        self.message(Some("update"), &message);
    }

    /// All buckets as one array.
    pub(super) fn array(&mut self, key: &SeriesKey, now: UnixMillis, counts: &[(UnixMillis, i64)], fill: bool) {
        let filled = if fill { key.fill_gaps(now, counts) } else { counts.to_vec() };
        self.message(None, &buckets(&key.calendar, &filled));
    }

    /// The server's clock, and how long a notification takes to come back from the database.
    pub(super) fn heartbeat(&mut self, now: UnixMillis, lag_millis: Option<f64>) {
        #[derive(Serialize)]
        struct Message {
            time: String,
            lag_ms: Option<f64>,
        }
        let time = date_time(now).to_rfc3339_opts(SecondsFormat::Millis, true);
        self.message(Some("heartbeat"), &Message { time, lag_ms: lag_millis });
    }

    /// Whether the database can be heard.
    pub(super) fn status(&mut self, status: &'static str) {
        #[derive(Serialize)]
        struct Message {
            status: &'static str,
        }
        self.message(Some("status"), &Message { status });
    }
}

/// Tells the series of a metric apart, of which a topic may have several. The window, which most have alone, needs no name.
fn series_name(extent: &Extent) -> Option<&'static str> {
    match extent {
        Extent::Window(_) => None,
        Extent::Latest { from: Some(_), .. } => Some("range"),
        Extent::Latest { from: None, .. } => Some("latest"),
    }
}

fn buckets(calendar: &Calendar, counts: &[(UnixMillis, i64)]) -> Vec<Bucket> {
    counts.iter().map(|&(time, count)| Bucket { time: calendar.format(time), count }).collect()
}
