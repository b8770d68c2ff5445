//! How far an export is, and what may come next.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits for a worker, for the first time or to be tried again.
    Created,
    /// A worker has it, and opens the ledger and the store.
    Pending,
    /// Rows are written.
    Running,
    /// Its worker has been told to stop.
    Cancelling,
    /// The file can be downloaded.
    Complete,
    /// Somebody changed their mind, and nothing is left of it.
    Cancelled,
    /// It cannot be made; why is its `reason`.
    Failed,
    /// The file was there, and is no more.
    Expired,
}

/// What happens to an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A worker takes it, possibly from one that was not heard of any more.
    Take,
    /// The ledger and the store are open.
    Open,
    /// The worker lets go of it, to be tried again.
    Release,
    /// Somebody changes their mind.
    Cancel,
    /// The worker has cleaned up after a cancellation.
    Stop,
    /// The file is in the store.
    Complete,
    /// It cannot be made.
    Fail,
    /// The file goes: its time is over, or somebody does not want it any more.
    Expire,
}

/// Something that cannot happen any more, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an export that is {state} cannot {event}")]
pub struct IllegalTransition {
    /// How far the export is.
    pub state: State,
    /// What was to happen.
    pub event: Event,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Pending,
        Self::Running,
        Self::Cancelling,
        Self::Complete,
        Self::Cancelled,
        Self::Failed,
        Self::Expired,
    ];

    /// Its name in the database and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }

    /// Whether nobody will work at it any more. How it ended never changes; only the file of one that is complete goes at
    /// some time, which is `Expired`.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled | Self::Failed | Self::Expired)
    }

    /// What an export is after something happened to it. Every rule is in here; the database is told these by
    /// [`Event::transitions`].
    pub const fn after(self, event: Event) -> Result<Self, IllegalTransition> {
        use State::{Cancelled, Cancelling, Complete, Created, Expired, Failed, Pending, Running};
        let next = match (self, event) {
            // One that was being cancelled is taken by somebody else to clean up.
            (Cancelling, Event::Take | Event::Cancel | Event::Release) => Cancelling,
            (Created | Pending | Running, Event::Take) => Pending,
            (Pending, Event::Open) => Running,
            (Pending | Running, Event::Release) => Created,
            (Created | Cancelled, Event::Cancel) => Cancelled,
            (Pending | Running, Event::Cancel) => Cancelling,
            // What failed while it was cancelled is what was wanted.
            (Cancelling, Event::Stop | Event::Fail) => Cancelled,
            (Running, Event::Complete) => Complete,
            (Pending | Running, Event::Fail) => Failed,
            (Complete | Expired, Event::Expire) => Expired,
            // What was never there needs not go.
            (Cancelled, Event::Expire) => Cancelled,
            (Failed, Event::Expire) => Failed,
            (state, event) => return Err(IllegalTransition { state, event }),
        };
        Ok(next)
    }
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Take, Self::Open, Self::Release, Self::Cancel, Self::Stop, Self::Complete, Self::Fail, Self::Expire];

    /// From which states it leads to which: what the one conditional `update` that decides about it goes by.
    pub fn transitions(self) -> impl Iterator<Item = (State, State)> {
        State::ALL.into_iter().filter_map(move |state| Some((state, state.after(self).ok()?)))
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// A state of a later version, or of nobody's.
#[derive(Debug, thiserror::Error)]
#[error("there is no state {0:?}")]
pub struct UnknownState(String);

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Take => "be taken",
            Self::Open => "begin",
            Self::Release => "be tried again",
            Self::Cancel => "be cancelled",
            Self::Stop => "stop",
            Self::Complete => "be completed",
            Self::Fail => "fail",
            Self::Expire => "expire",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// As a table, for the eye: what each event (a column, in the order of `Event::ALL`) makes of each state.
    #[test]
    fn the_transitions_are_these() {
        let table = State::ALL.map(|state| {
            let next = Event::ALL.map(|event| state.after(event).map_or("-", State::name));
            format!("{:<10} | {}", state.name(), next.map(|next| format!("{next:<10}")).join(" ").trim_end())
        });
        let expected = [
            // take open release cancel stop complete fail expire
            "created    | pending    -          -          cancelled  -          -          -          -",
            "pending    | pending    running    created    cancelling -          -          failed     -",
            "running    | pending    -          created    cancelling -          complete   failed     -",
            "cancelling | cancelling -          cancelling cancelling cancelled  -          cancelled  -",
            "complete   | -          -          -          -          -          -          -          expired",
            "cancelled  | -          -          -          cancelled  -          -          -          cancelled",
            "failed     | -          -          -          -          -          -          -          failed",
            "expired    | -          -          -          -          -          -          -          expired",
        ];
        assert_eq!(table, expected.map(str::to_owned));
    }

    proptest! {
        #[test]
        fn how_it_ended_never_changes(events in proptest::collection::vec(select(&Event::ALL), 0..50)) {
            let mut state = State::Created;
            for event in events {
                let next = state.after(event).unwrap_or(state);
                if state.is_terminal() {
                    prop_assert!(next == state || (state, next) == (State::Complete, State::Expired));
                }
                state = next;
            }
        }

        #[test]
        fn whatever_happened_it_can_be_brought_to_an_end(
            events in proptest::collection::vec(select(&Event::ALL), 0..50),
        ) {
            let mut state = events.iter().fold(State::Created, |state, event| state.after(*event).unwrap_or(state));
            for event in [Event::Cancel, Event::Stop] {
                state = state.after(event).unwrap_or(state);
            }
            prop_assert!(state.is_terminal());
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.name().parse::<State>().expect("a state"), state);
            assert_eq!(serde_json::to_value(state).expect("JSON"), state.name());
        }
    }
}
