//! The hub against a model of Postgres: random interleavings of transactions, notifications, readings, sweeps and lost
//! connections. Whatever happens in between, in the end every series shows what a recount shows, and every position
//! that was ever handed out tells truly what its holder lacks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Format, Hub, Subscription, Topic};
use crate::statistics::query::{Changes, Reading};
use crate::statistics::{Calendar, Delta, Extent, Metric, Position, Resolution, SeriesKey, Snapshot, UnixMillis};

const NOW: UnixMillis = 1_800_000_000_000;

/// What may happen next. Numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
enum Event {
    Begin,
    Insert(usize, u8),
    Commit(usize, Announcement),
    Abort(usize),
    Deliver,
    LoseConnection,
    BeginSweep,
    EndSweep,
    Rebuild,
    ReadAgain,
    Subscribe(usize),
    TakeWanted,
    Read(usize),
    EndReading(usize, bool),
    Publish,
    Note(usize),
}

/// How a transaction is heard of.
#[derive(Clone, Copy, Debug)]
enum Announcement {
    Whole,
    InTwo,
    Silent,
}

fn event() -> impl Strategy<Value = Event> {
    let announcement =
        prop_oneof![4 => Just(Announcement::Whole), 2 => Just(Announcement::InTwo), 1 => Just(Announcement::Silent)];
    prop_oneof![
        3 => Just(Event::Begin),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(which, when)| Event::Insert(which, when)),
        4 => (any::<usize>(), announcement).prop_map(|(which, how)| Event::Commit(which, how)),
        1 => any::<usize>().prop_map(Event::Abort),
        5 => Just(Event::Deliver),
        1 => Just(Event::LoseConnection),
        2 => Just(Event::BeginSweep),
        2 => Just(Event::EndSweep),
        1 => Just(Event::Rebuild),
        1 => Just(Event::ReadAgain),
        2 => any::<usize>().prop_map(Event::Subscribe),
        3 => Just(Event::TakeWanted),
        3 => any::<usize>().prop_map(Event::Read),
        3 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, good)| Event::EndReading(which, good)),
        3 => Just(Event::Publish),
        2 => any::<usize>().prop_map(Event::Note),
    ]
}

/// A ledger with transactions, snapshots and a notification queue that is in the order of commits.
struct Postgres {
    epoch: Uuid,
    next_xid: u64,
    next_delta: i64,
    active: Vec<(u64, Vec<Delta>)>,
    committed: Vec<Delta>,
    queue: VecDeque<Vec<Delta>>,
    /// Below this the deltas are gone.
    pruned_below: u64,
}

impl Postgres {
    fn snapshot(&self) -> Snapshot {
        let mut in_progress: Vec<_> = self.active.iter().map(|(xid, _)| *xid).collect();
        in_progress.sort_unstable();
        Snapshot { xmin: in_progress.first().copied().unwrap_or(self.next_xid), xmax: self.next_xid, in_progress }
    }

    fn recount(&self, key: &SeriesKey) -> Vec<(UnixMillis, i64)> {
        let mut counts = BTreeMap::new();
        for delta in self.committed.iter().filter(|delta| key.covers(delta)) {
            *counts.entry(key.calendar.start_of(delta.bucket)).or_default() += delta.count;
        }
        let mut counts: Vec<_> = counts.into_iter().rev().collect();
        if let Extent::Latest { limit, .. } = key.extent {
            counts.truncate(limit as usize);
        }
        counts
    }

    fn changes(&self, position: Option<&Position>) -> Changes {
        let known =
            position.filter(|position| position.epoch == self.epoch && self.pruned_below <= position.snapshot.xmin);
        let deltas = known.map(|position| {
            self.committed.iter().filter(|delta| !position.includes(delta.xid, delta.id)).cloned().collect()
        });
        Changes { epoch: self.epoch, snapshot: self.snapshot(), now: NOW, deltas }
    }

    fn reading(&self, key: &SeriesKey) -> Reading {
        Reading { epoch: self.epoch, snapshot: self.snapshot(), counts: self.recount(key) }
    }
}

fn keys() -> Vec<SeriesKey> {
    let key = |metric, resolution, base_item, extent| {
        let calendar = Calendar { resolution, zone: Tz::Europe__Berlin };
        SeriesKey { metric, calendar, base_item, extent }
    };
    vec![
        key(Metric::Transfers, Resolution::Second, None, Extent::Window(120)),
        key(Metric::Transfers, Resolution::Day, Some(Uuid::from_u128(1)), Extent::Window(3)),
        key(Metric::ItemCreation, Resolution::Hour, None, Extent::Window(5)),
        key(Metric::Transfers, Resolution::Second, None, Extent::Latest { from: None, to: None, limit: 4 }),
    ]
}

/// What a reader held at some time: the values, and the position that came with them.
struct Held {
    key: SeriesKey,
    position: Position,
    values: BTreeMap<UnixMillis, i64>,
}

struct Model {
    postgres: Postgres,
    hub: Arc<Hub>,
    keys: Vec<SeriesKey>,
    subscriptions: Vec<Subscription>,
    sweep: Option<Changes>,
    /// Series that were handed out to be read, and what was read, once it was.
    readings: Vec<(SeriesKey, Option<Reading>)>,
    held: Vec<Held>,
}

impl Model {
    fn new() -> Self {
        let postgres = Postgres {
            epoch: Uuid::from_u128(1),
            next_xid: 10,
            next_delta: 1,
            active: Vec::new(),
            committed: Vec::new(),
            queue: VecDeque::new(),
            pruned_below: 10,
        };
        Self {
            postgres,
            hub: Arc::default(),
            keys: keys(),
            subscriptions: Vec::new(),
            sweep: None,
            readings: Vec::new(),
            held: Vec::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        let postgres = &mut self.postgres;
        match event {
            Event::Begin => {
                postgres.active.push((postgres.next_xid, Vec::new()));
                postgres.next_xid += 1;
            }
            Event::Insert(which, when) => {
                if let Some((xid, deltas)) = pick(&mut postgres.active, which) {
                    deltas.push(Delta {
                        id: postgres.next_delta,
                        xid: *xid,
                        metric: if when % 4 == 0 { Metric::ItemCreation } else { Metric::Transfers },
                        base_item: Uuid::from_u128(u128::from(when % 2)),
                        bucket: NOW - i64::from(when) * 400,
                        count: 1 + i64::from(when % 3),
                    });
                    postgres.next_delta += 1;
                }
            }
            Event::Commit(which, announcement) => {
                if postgres.active.is_empty() {
                    return;
                }
                let (_, mut deltas) = postgres.active.swap_remove(which % postgres.active.len());
                postgres.committed.extend(deltas.iter().cloned());
                match announcement {
                    Announcement::Whole => postgres.queue.push_back(deltas),
                    Announcement::InTwo => {
                        let second = deltas.split_off(deltas.len() / 2);
                        postgres.queue.extend([deltas, second]);
                    }
                    Announcement::Silent => {}
                }
            }
            Event::Abort(which) => {
                if !postgres.active.is_empty() {
                    postgres.active.swap_remove(which % postgres.active.len());
                }
            }
            Event::Deliver => {
                if let Some(deltas) = postgres.queue.pop_front() {
                    self.hub.hear(&deltas);
                }
            }
            // The sweep and the readings go over other connections, so they go on.
            Event::LoseConnection => postgres.queue.clear(),
            Event::BeginSweep => {
                if self.sweep.is_none() && !self.hub.is_catching_up() {
                    self.sweep = Some(postgres.changes(self.hub.position().as_ref()));
                }
            }
            Event::EndSweep => {
                if let Some(changes) = self.sweep.take() {
                    self.hub.catch_up(changes);
                }
            }
            Event::Rebuild => {
                postgres.epoch = Uuid::from_u128(postgres.epoch.as_u128() + 1);
                postgres.pruned_below = postgres.next_xid;
            }
            Event::ReadAgain => self.hub.read_again(),
            Event::Subscribe(which) => {
                let key = self.keys[which % self.keys.len()].clone();
                let topic = Topic::new(vec![key], Format::Events);
                self.subscriptions.push(self.hub.subscribe(topic, None, Duration::ZERO).expect("room"));
            }
            Event::TakeWanted => self.readings.extend(self.hub.take_wanted().into_iter().map(|key| (key, None))),
            Event::Read(which) => {
                if let Some((key, reading)) = pick(&mut self.readings, which) {
                    reading.get_or_insert_with(|| self.postgres.reading(key));
                }
            }
            Event::EndReading(which, good) => {
                if self.readings.is_empty() {
                    return;
                }
                let (key, reading) = self.readings.swap_remove(which % self.readings.len());
                match reading {
                    Some(reading) if good => self.hub.join(&key, reading),
                    _ => self.hub.join_failed(&key),
                }
            }
            Event::Publish => self.hub.lock().publish(),
            Event::Note(which) => self.note(which),
        }
    }

    /// Remembers what a reader of a series holds right now.
    fn note(&mut self, which: usize) {
        let state = self.hub.lock();
        let key = &self.keys[which % self.keys.len()];
        if let Some(series) = state.series.get(key).filter(|series| series.is_joined())
            && let Ok(position) = state.published_position.parse()
        {
            let values = series.counts(NOW).into_iter().collect();
            self.held.push(Held { key: key.clone(), position, values });
        }
    }

    /// Lets everything come to an end.
    fn settle(&mut self) {
        self.apply(Event::EndSweep);
        while !self.postgres.active.is_empty() {
            self.apply(Event::Commit(0, Announcement::Silent));
        }
        while !self.postgres.queue.is_empty() {
            self.apply(Event::Deliver);
        }
        for _ in 0..4 {
            self.apply(Event::EndSweep);
            for event in [Event::BeginSweep, Event::EndSweep, Event::TakeWanted] {
                self.apply(event);
            }
            // A reading of an epoch that the hub has not heard of is asked for again: that is for the next round.
            for _ in 0..self.readings.len() {
                self.apply(Event::Read(0));
                self.apply(Event::EndReading(0, true));
            }
        }
        self.apply(Event::Publish);
    }

    fn check(&self) {
        let state = self.hub.lock();
        for (key, series) in &state.series {
            assert!(series.is_joined(), "{key:?} was never joined");
            assert_eq!(series.counts(NOW), self.postgres.recount(key), "{key:?}");
        }
        // Whoever held these values and resumes learns of these buckets; all others must have been right.
        for held in self.held.iter().filter(|held| !matches!(held.key.extent, Extent::Latest { .. })) {
            let Some(missed) = self.postgres.changes(Some(&held.position)).deltas else { continue };
            let told: BTreeSet<_> = missed
                .iter()
                .filter(|delta| held.key.covers(delta))
                .map(|delta| held.key.calendar.start_of(delta.bucket))
                .collect();
            for (bucket, count) in self.postgres.recount(&held.key) {
                let right = held.values.get(&bucket).copied().unwrap_or(0) == count;
                assert!(right || told.contains(&bucket), "{bucket} at {} is left out", held.position);
            }
        }
    }
}

fn pick<T>(list: &mut [T], which: usize) -> Option<&mut T> {
    let length = list.len();
    list.get_mut(which % length.max(1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_counted_once_whatever_the_interleaving(events in prop::collection::vec(event(), 0..120)) {
        let mut model = Model::new();
        for event in events {
            model.apply(event);
        }
        model.settle();
        model.check();
    }
}
