//! Who is told when.
//!
//! Whoever was told something rests, the longer the more it took to send it: sending leaves the cores to whoever inserts
//! then. Each holder rests for what was sent to *their* streams. One with a few streams does not wait for one with
//! hundreds; and when there are many holders, all together do not send more than one of them would.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::topic::Topic;

/// After a publication the hub rests, so that sending leaves the cores to whoever inserts. Never less than this: timers
/// are no finer.
pub(super) const SHORTEST_REST: Duration = Duration::from_millis(2);
/// The rest is in proportion to what was sent: so much for each message, which takes the server, the kernel and a reader
/// on the same machine some 13 µs. All sending together then takes a fifth of a core.
const REST_PER_MESSAGE: Duration = Duration::from_micros(60);
/// The rest for each byte sent: readers of long messages have to take them in.
const REST_PER_BYTE: Duration = Duration::from_nanos(100);
/// However many watch, they see a number change 12 times a second.
pub(super) const LONGEST_REST: Duration = Duration::from_millis(80);
/// When something was heard so often since a holder was told something, writers are busy, and the cores are wanted: the
/// rest is as long again. What is told by then is merged of many changes in any case.
pub(super) const MANY_HEARINGS: u64 = 16;
/// So much rest may be owed. Changes that come now and then go out at once, two or three in a row as well.
pub(super) const REST_OWED: Duration = Duration::from_millis(20);

/// Whose streams they are: a number that tells holders apart. All that say nothing about it have the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holder(u64);

impl Holder {
    /// The one with this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Sent {
    /// The rest that makes up for it, by itself.
    fn cost(self) -> Duration {
        let saturating = |count| u32::try_from(count).unwrap_or(u32::MAX);
        REST_PER_MESSAGE * saturating(self.messages) + REST_PER_BYTE * saturating(self.bytes)
    }
}

impl std::iter::Sum for Sent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, sent| Self {
            messages: sum.messages + sent.messages,
            bytes: sum.bytes + sent.bytes,
        })
    }
}

/// Everyone who has streams, and when it is their turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    holders: HashMap<Holder, Turn>,
    /// How often something was heard so far.
    hearings: u64,
    /// When it is somebody's turn next, and when it is that of somebody who is owed something.
    next: Option<Instant>,
    next_owed: Option<Instant>,
}

/// A holder's turn.
#[derive(Debug, Default)]
struct Turn {
    /// In these topics something was published that their streams have not been told.
    owed: HashSet<Arc<Topic>>,
    told_at: Option<Instant>,
    /// What telling them last would cost alone.
    cost: Duration,
    /// The rest that was due then, for this time and those before it.
    due_rest: Duration,
    /// How often something had been heard by then.
    hearings: u64,
}

impl Turn {
    /// How long after being told something they are told more.
    fn rest(&self) -> Duration {
        self.due_rest.saturating_sub(REST_OWED).clamp(SHORTEST_REST, 2 * LONGEST_REST)
    }

    fn rested_at(&self) -> Option<Instant> {
        self.told_at.map(|at| at + self.rest())
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.rested_at().is_some_and(|at| at > now)
    }
}

impl Turns {
    /// Somebody has a stream.
    pub(super) fn enter(&mut self, holder: Holder) {
        let hearings = self.hearings;
        self.holders.entry(holder).or_insert_with(|| Turn { hearings, ..Turn::default() });
    }

    /// Forgets whoever has none any more.
    pub(super) fn retain(&mut self, has_streams: impl Fn(Holder) -> bool) {
        self.holders.retain(|holder, _| has_streams(*holder));
    }

    pub(super) fn hear(&mut self) {
        self.hearings += 1;
    }

    /// Something was published in this topic, which streams of this holder watch.
    pub(super) fn owe(&mut self, holder: Holder, topic: &Arc<Topic>) {
        if let Some(turn) = self.holders.get_mut(&holder) {
            turn.owed.insert(Arc::clone(topic));
        }
    }

    /// Whether this holder's streams have not been told something in this topic.
    pub(super) fn owes(&self, holder: Holder, topic: &Arc<Topic>) -> bool {
        self.holders.get(&holder).is_some_and(|turn| turn.owed.contains(topic))
    }

    /// Whether anybody is owed something.
    pub(super) fn is_owing(&self) -> bool {
        self.next_owed.is_some()
    }

    /// When the next publication may be: when it is somebody's turn, if there is something new, else when it is the turn
    /// of somebody who is owed something.
    pub(super) fn next(&self, is_dirty: bool) -> Option<Instant> {
        if is_dirty { self.next } else { self.next_owed }
    }

    /// Those whose turn it is.
    pub(super) fn due(&self, now: Instant) -> Vec<Holder> {
        let due = self.holders.iter().filter(|(_, turn)| !turn.owed.is_empty() && !turn.is_resting(now));
        due.map(|(holder, _)| *holder).collect()
    }

    /// Takes what a holder is owed. [`Turns::rest`] has to follow.
    pub(super) fn take(&mut self, holder: Holder) -> HashSet<Arc<Topic>> {
        self.holders.get_mut(&holder).map(|turn| std::mem::take(&mut turn.owed)).unwrap_or_default()
    }

    /// Has those rest who were sent something, and notes whose turn is next.
    ///
    /// One who is alone rests for what was sent. Of several who are busy each rests as if all had been sent as much, but
    /// not longer than for what all were sent: whoever is sent less than an equal share rests less, and together they are
    /// sent at most twice as much as one would be.
    pub(super) fn rest(&mut self, now: Instant, sent: impl IntoIterator<Item = (Holder, Sent)>) {
        let mut told = Vec::new();
        for (holder, sent) in sent.into_iter().filter(|(_, sent)| sent.messages > 0) {
            if let Some(turn) = self.holders.get_mut(&holder) {
                let rested = turn.told_at.map_or(Duration::ZERO, |at| now - at);
                turn.due_rest = turn.due_rest.saturating_sub(rested);
                turn.cost = sent.cost();
                // Until it is known how long: they are among those who rest.
                turn.told_at = Some(now);
                told.push(holder);
            }
        }
        let busy = self.holders.values().filter(|turn| turn.is_resting(now));
        let (busy, all) = busy.fold((0, Duration::ZERO), |(count, sum), turn| (count + 1, sum + turn.cost));
        for holder in told {
            let Some(turn) = self.holders.get_mut(&holder) else { continue };
            let are_writers_busy =
                self.hearings - std::mem::replace(&mut turn.hearings, self.hearings) >= MANY_HEARINGS;
            let rest = (turn.cost * busy).min(all).min(LONGEST_REST);
            turn.due_rest += rest * if are_writers_busy { 2 } else { 1 };
        }
        let soonest = now + SHORTEST_REST;
        let next = |turn: &Turn| turn.rested_at().map_or(soonest, |at| at.max(soonest));
        self.next = self.holders.values().map(next).min().or(Some(soonest));
        self.next_owed = self.holders.values().filter(|turn| !turn.owed.is_empty()).map(next).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Format;

    /// The times of a holder's turns within a second in which something happens to all every millisecond.
    #[derive(Debug)]
    struct Watched {
        holder: Holder,
        streams: usize,
        turns: Vec<Duration>,
    }

    /// What becomes of holders with so many streams each, when so much is heard every millisecond.
    fn watch(streams: &[usize], hearings: usize) -> Vec<Watched> {
        let topic = Arc::new(Topic::new(Vec::new(), Format::Events));
        let mut turns = Turns::default();
        let holder = |number: usize| Holder::new(number as u64);
        let watched = |(number, &streams)| Watched { holder: holder(number), streams, turns: Vec::new() };
        let mut all: Vec<_> = streams.iter().enumerate().map(watched).collect();
        all.iter().for_each(|watched| turns.enter(watched.holder));
        let begin = Instant::now();
        for millis in 0..1_000 {
            let now = begin + Duration::from_millis(millis);
            (0..hearings).for_each(|_| turns.hear());
            if turns.next(true).is_some_and(|next| next > now) {
                continue;
            }
            all.iter().for_each(|watched| turns.owe(watched.holder, &topic));
            let mut sent = Vec::new();
            for holder in turns.due(now) {
                let watched = all.iter_mut().find(|watched| watched.holder == holder).expect("one of them");
                assert_eq!(turns.take(holder).len(), 1, "what is owed is taken once");
                watched.turns.push(now - begin);
                sent.push((holder, Sent { messages: watched.streams, bytes: 0 }));
            }
            turns.rest(now, sent);
        }
        all
    }

    impl Watched {
        /// The longest time between two turns.
        fn longest_wait(&self) -> Duration {
            self.turns.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two turns")
        }

        fn messages(&self) -> usize {
            self.turns.len() * self.streams
        }
    }

    fn longest_wait(streams: usize, hearings: usize) -> Duration {
        watch(&[streams], hearings)[0].longest_wait()
    }

    #[test]
    fn the_more_is_sent_the_longer_the_rest() {
        assert_eq!(longest_wait(1, 0), SHORTEST_REST);
        let [some, many] = [200, 400].map(|streams| longest_wait(streams, 0));
        assert!(SHORTEST_REST < some && some < many, "{some:?} {many:?}");
        assert_eq!(longest_wait(100_000, 0), LONGEST_REST);
    }

    #[test]
    fn when_writers_are_busy_the_rest_is_twice_as_long() {
        assert_eq!(longest_wait(100_000, MANY_HEARINGS as usize), 2 * LONGEST_REST);
    }

    #[test]
    fn changes_now_and_then_go_out_at_once() {
        let first: Vec<_> = watch(&[300], 0)[0].turns.iter().take(3).map(Duration::as_millis).collect();
        assert_eq!(first[..2], [0, 2], "{first:?}");
        assert!(first[2] > 4, "{first:?}");
    }

    #[test]
    fn who_has_few_streams_does_not_wait_for_who_has_many() {
        let watched = watch(&[10, 1_000], 1);
        assert_eq!(watched[0].longest_wait(), SHORTEST_REST, "with few");
        assert!(watched[1].longest_wait() > 20 * SHORTEST_REST, "with many");
    }

    #[test]
    fn many_holders_are_sent_no_more_than_one_with_as_many_streams_twice_over() {
        let sent = |streams: &[usize]| watch(streams, 0).iter().map(Watched::messages).sum::<usize>();
        let by_one = sent(&[1_000]);
        for streams in [vec![1; 1_000], vec![10; 100], [vec![1; 500], vec![500]].concat()] {
            let by_all = sent(&streams);
            assert!(by_all < 3 * by_one, "{by_all} by {} holders, {by_one} by one", streams.len());
        }
    }

    #[test]
    fn who_has_no_streams_any_more_is_forgotten() {
        let mut turns = Turns::default();
        turns.enter(Holder::new(1));
        turns.enter(Holder::new(2));
        turns.retain(|holder| holder == Holder::new(2));
        assert_eq!(turns.holders.len(), 1);
    }
}
