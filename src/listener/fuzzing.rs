//! What holds of notifications, which whoever may connect to Postgres can send.

use std::sync::Arc;

use chrono_tz::Tz;
use uuid::Uuid;

use super::{Content, read};
use crate::fuzzing::choice_and_text;
use crate::hub::{Format, Holder, Hub, Topic};
use crate::statistics::query::{Changes, Reading};
use crate::statistics::{Calendar, Extent, Metric, Resolution, SeriesKey, Snapshot};

const NOW: i64 = 1_800_000_000_000;
const CHANNELS: [&str; 4] = ["item_creation", "item_transfer", "user_creation", "another"];

/// Notifications, and what the hub makes of them while somebody watches.
pub fn notifications(bytes: &[u8]) {
    let Some((choice, payload)) = choice_and_text(bytes) else { return };
    let Some(Content::Changes(deltas)) = read(CHANNELS[choice % CHANNELS.len()], payload) else { return };
    let hub = Arc::new(Hub::default());
    let epoch = Uuid::from_u128(1);
    let snapshot = || Snapshot { xmin: 1, xmax: 1, in_progress: Vec::new() };
    hub.catch_up(Changes { epoch, snapshot: snapshot(), now: NOW, deltas: Some(Vec::new()) });
    let zone = [Tz::UTC, Tz::Europe__Berlin, Tz::Pacific__Apia][choice % 3];
    let series: Vec<_> = Metric::ALL
        .into_iter()
        .flat_map(|metric| {
            Resolution::ALL.into_iter().flat_map(move |resolution| {
                let calendar = Calendar { resolution, zone };
                let newest = Extent::Latest { from: None, to: None, limit: 5 };
                [Extent::Window(60), newest].map(|extent| SeriesKey { metric, calendar, base_item: None, extent })
            })
        })
        .collect();
    let subscribed = hub.subscribe(Topic::new(series, Format::Events), Holder::default(), None, None);
    let _subscription = subscribed.expect("there is room");
    for key in hub.take_wanted() {
        hub.join(&key, Reading { epoch, snapshot: snapshot(), counts: Vec::new() });
    }
    // As often as they come.
    hub.hear(&deltas);
    hub.hear(&deltas);
    let position = hub.position().expect("nothing is being read");
    assert!(deltas.iter().all(|delta| position.includes(delta.xid, delta.id)));
    assert_eq!(position.to_string().parse::<crate::statistics::Position>().expect("it can be read").epoch, epoch);
}
