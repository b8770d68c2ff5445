//! What clients may ask of the server in connections and in time.

use std::num::NonZeroUsize;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A head is a few hundred bytes: even a bad network delivers it in a second or two, and who takes longer than this holds
/// a place without asking for anything. The answer is 408 then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of which nothing comes for so long will not go on; others wait for the connection to Postgres that a bulk
/// request holds. The answer is 408 then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is gone, or a tab that is frozen and asks again when it wakes up.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Nobody waits longer than this for the rest of a request.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// At most so many connections, unless said otherwise: twice as many dashboards as the benchmark has, which is known to
/// work, and some 60 MB of idle streams. Beyond, the answer is 503.
const MOST_CONNECTIONS: usize = 20_000;
/// So many of the files that the process may have open are not for clients: connections to Postgres, those who are told
/// that there is no room, listeners, certificates, the log.
const RESERVED_FILES: usize = 256;

/// What clients may ask of the server in connections and in time.
#[derive(Clone, Debug, clap::Args)]
#[non_exhaustive]
pub struct ConnectionSettings {
    /// How long the head of a request may take to come, from its first byte; of a connection's first one, from the
    /// beginning of the connection, with the TLS handshake
    #[arg(long, env = "NEWCYCLE_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = timeout)]
    pub header_timeout: Duration,
    /// How long the next piece of a request's body may take to come
    #[arg(long, env = "NEWCYCLE_BODY_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = timeout)]
    pub body_timeout: Duration,
    /// How long a client may take nothing of what it is sent, or not answer when its system is asked whether it is there,
    /// until its connection is given up
    #[arg(long, env = "NEWCYCLE_CLIENT_TIMEOUT", value_name = "SECONDS", default_value = "120", value_parser = timeout)]
    pub client_timeout: Duration,
    /// How many connections may be open, streams included; by default 20000, or as many as the limit of open files
    /// (ulimit -Hn) leaves room for. One more is answered 503
    #[arg(long, env = "NEWCYCLE_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub max_connections: Option<NonZeroUsize>,
    /// How many connections may come from one address (IPv6: one /64 network). No limit by default: everyone behind a
    /// proxy or in an office has the same
    #[arg(long, env = "NEWCYCLE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "NUMBER")]
    pub max_connections_per_address: Option<NonZeroUsize>,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            header_timeout: HEADER_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            client_timeout: CLIENT_TIMEOUT,
            max_connections: None,
            max_connections_per_address: None,
        }
    }
}

/// The system does not let the process have as many open files as there should be connections.
#[derive(Debug, thiserror::Error)]
#[error(
    "--max-connections {wanted} needs {} open files, and the system allows {allowed}: ask for {} connections at most, or \
    raise the limit (ulimit -Hn; LimitNOFILE of a systemd unit; --ulimit of docker)",
    wanted.saturating_add(RESERVED_FILES),
    allowed.saturating_sub(RESERVED_FILES)
)]
pub struct TooFewFiles {
    wanted: usize,
    allowed: usize,
}

impl ConnectionSettings {
    /// Raises the process's limit of open files as far as these connections need it: many systems start programs with
    /// 1,024, and let them have more if they ask.
    pub fn raise_file_limit(&self) -> Result<(), TooFewFiles> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = self.max_connections.map_or(MOST_CONNECTIONS, NonZeroUsize::get);
        let needed = wanted.saturating_add(RESERVED_FILES) as u64;
        if current.is_some_and(|current| current < needed) {
            let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
            if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
                tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files cannot be raised");
            }
        }
        match (self.max_connections, open_files()) {
            (Some(_), allowed) if (allowed as u64) < needed => Err(TooFewFiles { wanted, allowed }),
            _ => Ok(()),
        }
    }

    /// How many connections there may be.
    pub(crate) fn places(&self) -> usize {
        let files = open_files();
        let default = || files.saturating_sub(RESERVED_FILES).max(files / 2).min(MOST_CONNECTIONS);
        self.max_connections.map_or_else(default, NonZeroUsize::get)
    }
}

/// How many files the process may have open.
fn open_files() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

fn timeout(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() && timeout <= LONGEST_TIMEOUT => Ok(timeout),
        _ => Err(format!("it must be above 0, up to {}", LONGEST_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        connections: ConnectionSettings,
    }

    #[test]
    fn nothing_said_is_the_default() {
        let parsed = Line::try_parse_from(["newcycle"]).unwrap().connections;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", ConnectionSettings::default()));
    }

    #[test]
    fn a_timeout_that_cannot_be_is_refused_with_what_can() {
        for value in ["0", "-1", "NaN", "inf", "86401", "soon"] {
            let refused = Line::try_parse_from(["newcycle", &format!("--header-timeout={value}")]).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains("it must be above 0") || text.contains("not a number"), "{value}: {text}");
        }
    }

    #[test]
    fn more_connections_than_files_are_refused_with_how_many_there_can_be() {
        let error = TooFewFiles { wanted: 5000, allowed: 4096 }.to_string();
        assert!(error.contains("needs 5256 open files") && error.contains("ask for 3840 connections"), "{error}");
    }
}
