//! What a stream does, and what may come next.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody wants of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// That it fetches on its schedule.
    Running,
    /// That it does not.
    Stopped,
}

/// What a stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = StreamState)]
pub enum State {
    /// Nothing: nobody wants it to.
    Stopped,
    /// It waits for its next run, or to go on with the present one.
    Waiting,
    /// A worker fetches.
    Running,
    /// Its worker has been told to stop.
    Stopping,
    /// Nothing: it can do nothing before somebody changes what its `last_error` says.
    Failed,
}

/// What happens to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants it to run.
    Start,
    /// Somebody wants it to stop.
    Stop,
    /// Somebody wants it to fetch now.
    Fetch,
    /// A worker takes it, possibly from one that was not heard of any more.
    Take,
    /// The worker lets go of it, to go on later.
    Release,
    /// A run is over, and there will be others.
    Finish,
    /// A run is over that somebody asked for once.
    Rest,
    /// It cannot go on before somebody changes something.
    Fail,
}

impl Desired {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Running, Self::Stopped];

    /// Its name in the database and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Stopped, Self::Waiting, Self::Running, Self::Stopping, Self::Failed];

    /// Its name in the database and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }

    /// What a stream does after something happened to it; nothing if that cannot happen to it.
    pub const fn after(self, event: Event) -> Option<Self> {
        use State::{Failed, Running, Stopped, Stopping, Waiting};
        Some(match (self, event) {
            (Stopped | Failed | Waiting, Event::Start | Event::Fetch) => Waiting,
            // Its worker, should it not have noticed yet, goes on.
            (Running | Stopping, Event::Start) | (Running, Event::Fetch) => Running,
            (Stopped | Failed | Waiting, Event::Stop) => Stopped,
            (Running | Stopping, Event::Stop) => Stopping,
            (Waiting | Running, Event::Take) => Running,
            // One that was being stopped is taken by somebody else to clean up.
            (Stopping, Event::Take) => Stopping,
            (Running, Event::Release | Event::Finish) => Waiting,
            (Running, Event::Rest) => Stopped,
            (Running, Event::Fail) => Failed,
            // However a run ends that was being stopped, it has stopped.
            (Stopping, Event::Release | Event::Finish | Event::Rest | Event::Fail) => Stopped,
            (Stopped | Failed, Event::Take)
            | (Stopping, Event::Fetch)
            | (Stopped | Failed | Waiting, Event::Release | Event::Finish | Event::Rest | Event::Fail) => return None,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
