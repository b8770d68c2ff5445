//! The hub against a model of Postgres: random interleavings of transactions, notifications, readings, sweeps, lost
//! connections, and readers who come, dawdle, leave and resume. Whatever happens in between, in the end every series and
//! every reader shows what a recount shows, and every position that was ever handed out tells truly what its holder lacks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::DateTime;
use chrono_tz::Tz;
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

use super::{Format, Holder, Hub, Status, Step, Subscription, Topic};
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
    Subscribe(usize, u64, bool),
    /// A reader takes what there is for it.
    Advance(usize),
    /// A reader comes again, from where it was; the second says whether what it missed can be looked up.
    Reconnect(usize, bool),
    /// Time passes, for readers who do not want everything at once.
    Pass,
    Beat,
    SetStatus(bool),
    TakeWanted,
    Read(usize),
    EndReading(usize, bool),
    /// What was heard becomes visible; those concerned are told later.
    Show,
    /// It is the turn of one holder.
    Tell(u64),
    /// It is everybody's turn.
    Publish,
    Note(usize),
}

/// Whose streams there are.
const HOLDERS: std::ops::Range<u64> = 0..3;

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
        2 => (any::<usize>(), HOLDERS, prop::bool::weighted(0.3))
            .prop_map(|(which, holder, paced)| Event::Subscribe(which, holder, paced)),
        6 => any::<usize>().prop_map(Event::Advance),
        2 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, found)| Event::Reconnect(which, found)),
        1 => Just(Event::Pass),
        1 => Just(Event::Beat),
        1 => any::<bool>().prop_map(Event::SetStatus),
        3 => Just(Event::TakeWanted),
        3 => any::<usize>().prop_map(Event::Read),
        3 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, good)| Event::EndReading(which, good)),
        2 => Just(Event::Show),
        3 => HOLDERS.prop_map(Event::Tell),
        2 => Just(Event::Publish),
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

fn topics() -> Vec<Topic> {
    let [seconds, days, hours, latest] = keys().try_into().expect("four keys");
    vec![
        Topic::new(vec![seconds.clone()], Format::Events),
        Topic::new(vec![days], Format::Events),
        Topic::new(vec![seconds, hours.clone()], Format::Events),
        Topic::new(vec![hours], Format::Events),
        Topic::new(vec![latest], Format::Array { fill: false }),
    ]
}

/// A page with a stream.
struct Reader {
    topic: Topic,
    holder: Holder,
    paced: bool,
    subscription: Subscription,
    /// Whether what it missed while it was away can be looked up.
    found: bool,
    /// What it shows, by series.
    views: Vec<BTreeMap<UnixMillis, i64>>,
    status: Option<String>,
    last_id: Option<String>,
}

impl Reader {
    fn new(hub: &Arc<Hub>, topic: Topic, holder: Holder, paced: bool) -> Self {
        let subscription = subscribe(hub, &topic, holder, None, paced);
        let views = vec![BTreeMap::new(); topic.series.len()];
        Self { topic, holder, paced, subscription, found: true, views, status: None, last_id: None }
    }

    fn reconnect(&mut self, hub: &Arc<Hub>, found: bool) {
        let position = self.last_id.as_deref().and_then(|id| self.topic.position_of(id));
        self.subscription = subscribe(hub, &self.topic, self.holder, position, self.paced);
        self.found = found;
        self.status = None;
    }

    /// Takes the next messages, if there are any.
    fn advance(&mut self, postgres: &Postgres, held: &mut Vec<Held>) -> bool {
        match self.subscription.advance() {
            Ok(Step::Send(bytes)) => self.take(&bytes, held),
            Ok(Step::LookUp(position)) => {
                let missed = postgres.changes(Some(&position)).deltas;
                self.subscription.resume(missed.filter(|_| self.found));
            }
            Ok(Step::End) => unreachable!("the hub does not stop"),
            Err(_) => return false,
        }
        true
    }

    fn take(&mut self, bytes: &Bytes, held: &mut Vec<Held>) {
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        assert!(text.ends_with("\n\n"), "whole messages: {text:?}");
        for message in text.trim_end().split("\n\n") {
            let field = |name| message.lines().find_map(|line| line.strip_prefix(name));
            let Some(data) = field("data: ") else { continue };
            let data: Value = serde_json::from_str(data).expect("JSON");
            match field("event: ") {
                Some("snapshot") => *self.view_of(&data) = buckets(&data["buckets"]),
                Some("update") => self.view_of(&data).extend(buckets(&data["buckets"])),
                Some("status") => self.status = data["status"].as_str().map(str::to_owned),
                Some("heartbeat") => {}
                Some(other) => panic!("unknown event {other}"),
                None => self.views[0] = buckets(&data),
            }
            if let Some(id) = field("id: ") {
                self.last_id = Some(id.to_owned());
                let position = self.topic.position_of(id).expect("a position of its topic");
                held.extend(self.topic.series.iter().zip(&self.views).map(|(key, view)| Held {
                    key: key.clone(),
                    position: position.clone(),
                    values: view.clone(),
                }));
            }
        }
    }

    fn view_of(&mut self, data: &Value) -> &mut BTreeMap<UnixMillis, i64> {
        let index = self.topic.series.iter().position(|key| data["metric"] == key.metric.name());
        &mut self.views[index.expect("a series of its topic")]
    }
}

fn subscribe(hub: &Arc<Hub>, topic: &Topic, holder: Holder, resume: Option<Position>, paced: bool) -> Subscription {
    hub.subscribe(topic.clone(), holder, resume, paced.then_some(Duration::from_secs(3_600))).expect("room")
}

fn buckets(list: &Value) -> BTreeMap<UnixMillis, i64> {
    let list = list.as_array().expect("an array");
    let time = |bucket: &Value| DateTime::parse_from_rfc3339(bucket["time"].as_str()?).ok();
    list.iter()
        .map(|bucket| (time(bucket).expect("a time").timestamp_millis(), bucket["count"].as_i64().expect("a count")))
        .collect()
}

/// When it was whose turn: so late that the hub never comes to publish anything by itself.
fn at_will() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
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
    topics: Vec<Topic>,
    readers: Vec<Reader>,
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
        let hub = Arc::<Hub>::default();
        hub.lock().tell(&[], at_will());
        Self {
            postgres,
            hub,
            keys: keys(),
            topics: topics(),
            readers: Vec::new(),
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
            Event::Subscribe(which, holder, paced) => {
                let topic = self.topics[which % self.topics.len()].clone();
                self.readers.push(Reader::new(&self.hub, topic, Holder::new(holder), paced));
            }
            Event::Advance(which) => {
                if let Some(reader) = pick(&mut self.readers, which) {
                    reader.advance(&self.postgres, &mut self.held);
                }
            }
            Event::Reconnect(which, found) => {
                if let Some(reader) = pick(&mut self.readers, which) {
                    reader.reconnect(&self.hub, found);
                }
            }
            Event::Pass => self.readers.iter_mut().for_each(|reader| reader.subscription.rest()),
            Event::Beat => self.hub.lock().beat(),
            Event::SetStatus(live) => self.hub.set_status(if live { Status::Live } else { Status::Stale }),
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
            Event::Show => self.hub.lock().show(),
            Event::Tell(holder) => self.hub.lock().tell(&[Holder::new(holder)], at_will()),
            Event::Publish => {
                let mut state = self.hub.lock();
                state.show();
                state.tell(&HOLDERS.map(Holder::new).collect::<Vec<_>>(), at_will());
            }
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
        self.apply(Event::Pass);
        for reader in &mut self.readers {
            while reader.advance(&self.postgres, &mut self.held) {}
        }
    }

    fn check(&self) {
        let state = self.hub.lock();
        for series in state.series.iter() {
            let key = series.key();
            assert!(series.is_joined(), "{key:?} was never joined");
            assert_eq!(series.counts(NOW), self.postgres.recount(key), "{key:?}");
        }
        for reader in &self.readers {
            for (key, view) in reader.topic.series.iter().zip(&reader.views) {
                let shown: Vec<_> =
                    view.iter().rev().filter(|(_, count)| **count != 0).map(|(time, count)| (*time, *count)).collect();
                assert_eq!(shown, self.postgres.recount(key), "a reader of {key:?}");
            }
            let status = if state.status == Status::Live { "live" } else { "stale" };
            let told = reader.topic.format == Format::Events;
            assert_eq!(reader.status.as_deref(), told.then_some(status));
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

/// A hub with a joined topic and so many readers who have taken everything.
fn with_readers(count: usize) -> Model {
    let mut model = Model::new();
    for _ in 0..count {
        model.apply(Event::Subscribe(0, 0, false));
    }
    model.settle();
    model
}

/// A transaction of one row, heard and told.
fn happen(model: &mut Model) {
    happen_at(model, 1);
    model.apply(Event::Publish);
}

/// A transaction of one row at some time, heard.
fn happen_at(model: &mut Model, when: u8) {
    for event in [Event::Begin, Event::Insert(0, when), Event::Commit(0, Announcement::Whole), Event::Deliver] {
        model.apply(event);
    }
}

fn sent(reader: &mut Reader) -> Option<Bytes> {
    match reader.subscription.advance() {
        Ok(Step::Send(bytes)) => {
            reader.take(&bytes, &mut Vec::new());
            Some(bytes)
        }
        _ => None,
    }
}

#[test]
fn streams_that_keep_up_are_sent_one_buffer() {
    let mut model = with_readers(3);
    happen(&mut model);
    let buffers: Vec<_> = model.readers.iter_mut().map(|reader| sent(reader).expect("an update")).collect();
    assert!(buffers.iter().all(|bytes| bytes.as_ptr() == buffers[0].as_ptr()), "{buffers:?}");
    assert!(model.readers.iter_mut().all(|reader| sent(reader).is_none()), "and nothing else");
}

#[test]
fn a_stream_that_missed_versions_is_sent_their_changes_merged() {
    let mut model = with_readers(2);
    for _ in 0..3 {
        happen(&mut model);
        sent(&mut model.readers[0]).expect("an update");
    }
    let merged = sent(&mut model.readers[1]).expect("an update");
    assert_eq!(merged.windows(6).filter(|window| window == b"event:").count(), 1, "{merged:?}");
    happen(&mut model);
    let buffers: Vec<_> = model.readers.iter_mut().map(|reader| sent(reader).expect("an update").as_ptr()).collect();
    assert_eq!(buffers[0], buffers[1], "it keeps up again");
    model.settle();
    model.check();
}

#[test]
fn a_stream_with_an_interval_is_sent_values_no_more_often() {
    let mut model = with_readers(0);
    model.apply(Event::Subscribe(0, 0, true));
    model.settle();
    model.apply(Event::Pass);
    happen(&mut model);
    assert!(sent(&mut model.readers[0]).is_some(), "the first change goes out at once");
    happen(&mut model);
    assert!(sent(&mut model.readers[0]).is_none(), "the next one is kept");
    model.apply(Event::Beat);
    let heartbeat = sent(&mut model.readers[0]).expect("a heartbeat all the same");
    assert!(!heartbeat.windows(4).any(|window| window == b"\nid:"), "which does not say that all was told");
    model.apply(Event::Pass);
    assert!(sent(&mut model.readers[0]).is_some(), "until the time has come");
}

/// How many buckets a message has.
fn told(bytes: &Bytes) -> usize {
    std::str::from_utf8(bytes).expect("UTF-8").matches("\"time\"").count()
}

fn has_id(bytes: &Bytes) -> bool {
    bytes.windows(4).any(|window| window == b"\nid:")
}

#[test]
fn a_holder_whose_turn_it_is_not_is_told_everything_later() {
    for meanwhile in [Event::Beat, Event::SetStatus(true)] {
        let mut model = with_readers(1);
        model.apply(Event::Subscribe(0, 1, false));
        model.settle();
        for when in [1, 3] {
            happen_at(&mut model, when);
            model.apply(Event::Show);
            model.apply(Event::Tell(0));
        }
        assert_eq!(sent(&mut model.readers[0]).as_ref().map(told), Some(2));
        assert_eq!(sent(&mut model.readers[1]), None);
        model.apply(meanwhile);
        let other = sent(&mut model.readers[1]).expect("a message");
        assert!(!has_id(&other), "which does not say that all was told: {other:?}");
        // It misses the news of its turn, and asks for what it lacks.
        model.apply(Event::Tell(1));
        happen_at(&mut model, 7);
        model.apply(Event::Publish);
        assert_eq!(sent(&mut model.readers[1]).as_ref().map(told), Some(3), "after {meanwhile:?}");
        model.apply(Event::Beat);
        assert!(has_id(&sent(&mut model.readers[1]).expect("a heartbeat")), "now all was told");
        model.settle();
        model.check();
    }
}

#[test]
fn a_stream_that_nothing_happened_to_hears_how_far_it_is() {
    let mut model = with_readers(1);
    model.apply(Event::Subscribe(3, 1, false));
    model.settle();
    // The second one counts items, and this is a transfer.
    happen(&mut model);
    assert!(sent(&mut model.readers[0]).is_some());
    assert!(sent(&mut model.readers[1]).is_none());
    model.apply(Event::Beat);
    assert!(has_id(&sent(&mut model.readers[1]).expect("a heartbeat")), "it lacks nothing");
}

#[test]
fn a_holder_who_comes_back_is_told_only_what_is_new() {
    let mut model = with_readers(2);
    model.readers.remove(1);
    model.apply(Event::Subscribe(0, 1, false));
    model.settle();
    model.readers.remove(1);
    happen_at(&mut model, 1);
    model.apply(Event::Publish);
    model.apply(Event::Subscribe(0, 1, false));
    model.settle();
    happen_at(&mut model, 3);
    model.apply(Event::Publish);
    assert_eq!(sent(&mut model.readers[1]).as_ref().map(told), Some(1));
}
