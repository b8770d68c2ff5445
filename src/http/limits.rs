//! How much of the server there is, and how much of it one caller may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::Utc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::guard::Admitted;
use super::problem::{Kind, Problem};
use crate::auth::IdentityKind;
use crate::hub::{self, Holder};

/// 16,384 streams take 50 MB, and leave room below the 20,000 files that a process may commonly have open.
const MOST_STREAMS: usize = 16_384;
/// An office that shares a key has fewer pages. Each of these sees something new every 12 ms, where a thousand would every
/// 60; and as a stream has nine series at most, they have a fifth of those there may be.
const MOST_STREAMS_PER_KEY: usize = 200;
/// A year of hours, or seven days of minutes.
const MOST_BUCKETS: u32 = 10_000;
/// Some seven million rows. More can be sent in several requests, or with `newcycle import`.
const MOST_BODY_BYTES: usize = 1 << 30;

/// How much there is, and how much of it one may have.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitSettings {
    /// How many streams may be open; a further one is answered 503
    #[arg(long, env = "NEWCYCLE_MAX_STREAMS", value_name = "N", default_value_t = MOST_STREAMS)]
    pub max_streams: usize,
    /// How many of them by one key, or by one address where none is needed; a further one is answered 429. While the server
    /// is open to everybody this does not count
    #[arg(long, env = "NEWCYCLE_MAX_STREAMS_PER_KEY", value_name = "N", default_value_t = MOST_STREAMS_PER_KEY)]
    pub max_streams_per_key: usize,
    /// How many different series are counted live, for all streams together; a stream that needs a further one is
    /// answered 503. A series takes some 100 bytes a non-empty bucket
    #[arg(long, env = "NEWCYCLE_MAX_SERIES", value_name = "N", default_value_t = hub::MOST_SERIES)]
    pub max_series: usize,
    /// How many buckets an answer, or the window of a stream, may have; more are answered 422
    #[arg(
        long, env = "NEWCYCLE_MAX_BUCKETS", value_name = "N", default_value_t = MOST_BUCKETS,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_buckets: u32,
    /// How many bytes a body may have; more are answered 413. A single row may have a mebibyte
    #[arg(long, env = "NEWCYCLE_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = MOST_BODY_BYTES)]
    pub max_body_bytes: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_streams: MOST_STREAMS,
            max_streams_per_key: MOST_STREAMS_PER_KEY,
            max_series: hub::MOST_SERIES,
            max_buckets: MOST_BUCKETS,
            max_body_bytes: MOST_BODY_BYTES,
        }
    }
}

/// The limits, and what is taken up. A shared handle.
#[derive(Clone, Debug)]
pub(super) struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: LimitSettings,
    streams: Mutex<OpenStreams>,
}

/// How many streams are open, in all and by whom. Behind a mutex, which is held for a moment when one opens or ends.
#[derive(Debug, Default)]
struct OpenStreams {
    all: usize,
    by_holder: HashMap<Holder, usize>,
}

impl Limits {
    pub(super) fn new(settings: LimitSettings) -> Self {
        Self(Arc::new(Inner { settings, streams: Mutex::default() }))
    }

    /// The most buckets in one answer or window.
    pub(super) fn most_buckets(&self) -> u32 {
        self.0.settings.max_buckets
    }

    /// Opens a stream for whom the guard admitted, if there may be one more.
    pub(super) fn enter(&self, Admitted { caller, holder, .. }: Admitted) -> Result<Stay, Problem> {
        // Keys and sessions are watched in one place, for all their streams together; tokens end by the clock alone.
        let token = caller.identity.filter(|identity| identity.kind == IdentityKind::Token);
        let rest = token.and_then(|token| token.expires_at).map(|at| (at - Utc::now()).to_std().unwrap_or_default());
        let ticket = self.take_stream(holder)?;
        Ok(Stay { ended: caller.ended, expires: rest.map(|rest| Instant::now() + rest), _ticket: ticket })
    }

    fn take_stream(&self, holder: Option<Holder>) -> Result<StreamTicket, Problem> {
        let LimitSettings { max_streams, max_streams_per_key, .. } = self.0.settings;
        let mut open = self.0.streams();
        if open.all >= max_streams {
            let detail = format!("{max_streams} streams are open, which is the limit");
            return Err(Problem::new(Kind::Unavailable, detail));
        }
        if let Some(holder) = &holder {
            let own = open.by_holder.get(holder).copied().unwrap_or(0);
            if own >= max_streams_per_key {
                let detail = format!("You have {max_streams_per_key} streams open, which is the limit: end one first");
                return Err(Problem::new(Kind::TooManyRequests, detail));
            }
            open.by_holder.insert(*holder, own + 1);
        }
        open.all += 1;
        drop(open);
        Ok(StreamTicket { limits: self.clone(), holder })
    }
}

impl Inner {
    fn streams(&self) -> MutexGuard<'_, OpenStreams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one stream among those that may be open; given back when dropped.
#[derive(Debug)]
struct StreamTicket {
    limits: Limits,
    holder: Option<Holder>,
}

impl Drop for StreamTicket {
    fn drop(&mut self) {
        let mut open = self.limits.0.streams();
        open.all -= 1;
        if let Some(holder) = &self.holder
            && let Some(own) = open.by_holder.get_mut(holder)
        {
            *own -= 1;
            if *own == 0 {
                open.by_holder.remove(holder);
            }
        }
    }
}

/// How long a stream may go on.
#[derive(Debug)]
pub(super) struct Stay {
    ended: CancellationToken,
    expires: Option<Instant>,
    _ticket: StreamTicket,
}

impl Stay {
    /// Waits until its caller may not have it any more.
    pub(super) async fn over(&self) {
        match self.expires {
            None => self.ended.cancelled().await,
            Some(expires) => {
                // Few streams have a timer, and those that have one are not made larger for the others.
                let _ = Box::pin(timeout_at(expires, self.ended.cancelled())).await;
            }
        }
    }
}
