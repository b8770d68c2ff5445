//! The keys and sessions that are good now, in memory.
//!
//! **Invariant:** no request waits for the database to learn who it is from, but one with a key or session that is not
//! known here. That one may have been made a moment ago, so the database is asked, once for all who wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Scopes, Secret, SecretHash};

/// How often the database is asked whether something changed: the longest that a revoked key is still taken.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Unknown keys make the database be asked not more often than this, however many come; they wait so long.
const SHORTEST_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// Anything asked of the database that takes longer has failed, and is asked again.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is written down which keys were used.
const USES_INTERVAL: Duration = Duration::from_secs(60);

/// A secret that is, or was, good.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    pub(super) key: Arc<KeyFacts>,
    hash: SecretHash,
    /// The hash of the key's secret: this one, or for a session that with which it was begun.
    pub(super) key_secret: SecretHash,
    pub(super) expires_at: Option<DateTime<Utc>>,
    /// Whatever goes on with this secret ends with this.
    pub(super) ended: CancellationToken,
}

/// What all secrets of a key share.
#[derive(Debug)]
pub(super) struct KeyFacts {
    pub(super) id: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) scopes: Scopes,
    is_revoked: bool,
    /// Whether it was used since that was last written down.
    used: AtomicBool,
}

/// Why a secret is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// There is none such, or it is of another secret.
    Unknown,
    /// It was good up to then.
    Expired(DateTime<Utc>),
    /// It was good until somebody ended it.
    Revoked,
    /// The database, which alone may know it, cannot be asked.
    Unavailable,
}

/// A shared handle.
#[derive(Debug)]
pub(super) struct Registry {
    pool: PgPool,
    /// Replaced as a whole, so that nobody holds the lock for longer than it takes to clone an `Arc`.
    known: RwLock<Arc<Known>>,
    /// Ends when there is a key for the first time.
    first_key: CancellationToken,
    /// Held while a refresh goes on: those who wait for it need none of their own.
    refreshed: Mutex<Option<Refresh>>,
}

/// The last refresh.
#[derive(Clone, Copy, Debug)]
struct Refresh {
    began: Instant,
    has_succeeded: bool,
}

/// What the database held at a version.
#[derive(Debug, Default)]
struct Known {
    version: i64,
    /// The secrets of each key, the present one and the one before; of revoked and expired keys as well.
    keys: HashMap<String, Vec<Credential>>,
    /// The sessions that are good.
    sessions: HashMap<String, Credential>,
}

impl Registry {
    /// Reads everything.
    pub(super) async fn load(pool: PgPool) -> Result<Self, sqlx::Error> {
        let known = Known::load(&pool, &Known::default()).await?;
        let first_key = CancellationToken::new();
        known.tell_of_keys(&first_key);
        Ok(Self { pool, known: RwLock::new(Arc::new(known)), first_key, refreshed: Mutex::new(None) })
    }

    /// Ends when there is a key for the first time.
    pub(super) fn first_key(&self) -> &CancellationToken {
        &self.first_key
    }

    /// The credential of a key's secret.
    pub(super) async fn key(&self, secret: &Secret) -> Result<Credential, Rejected> {
        self.find(|known| known.key(secret)).await
    }

    /// The credential of a session's secret.
    pub(super) async fn session(&self, secret: &Secret) -> Result<Credential, Rejected> {
        self.find(|known| known.session(secret)).await
    }

    async fn find(&self, find: impl Fn(&Known) -> Result<Credential, Rejected>) -> Result<Credential, Rejected> {
        let mut found = find(&self.known());
        if found.as_ref().err() == Some(&Rejected::Unknown) {
            let is_up_to_date = self.refresh_for_unknown().await;
            found = find(&self.known());
            if !is_up_to_date && found.as_ref().err() == Some(&Rejected::Unknown) {
                found = Err(Rejected::Unavailable);
            }
        }
        let credential = found?;
        credential.key.used.store(true, Ordering::Relaxed);
        Ok(credential)
    }

    /// Keeps what is known true until the end.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut refreshes = interval(REFRESH_INTERVAL);
        let mut uses = interval(USES_INTERVAL);
        let mut is_failing = false;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                _ = refreshes.tick() => {
                    self.known().end_expired();
                    self.refresh().await
                }
                _ = uses.tick() => self.write_uses().await,
            };
            match outcome {
                Ok(()) => is_failing = false,
                Err(error) if is_failing => tracing::debug!(error = &error as &dyn std::error::Error, "again"),
                Err(error) => {
                    is_failing = true;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "changes of keys cannot be seen: those known stay good");
                }
            }
        }
        // What is not written now is a minute that nobody will miss, if the database is away.
        let _ = self.write_uses().await;
    }

    /// Reads everything again if something changed.
    pub(super) async fn refresh(&self) -> Result<(), sqlx::Error> {
        let mut refreshed = self.refreshed.lock().await;
        self.refresh_now(&mut refreshed).await
    }

    /// The same, unless somebody else did so since this was called; and not too often. Whether it succeeded.
    async fn refresh_for_unknown(&self) -> bool {
        let called = Instant::now();
        let mut refreshed = self.refreshed.lock().await;
        match *refreshed {
            Some(last) if last.began >= called => return last.has_succeeded,
            Some(last) => sleep_until(last.began + SHORTEST_REFRESH_INTERVAL).await,
            None => {}
        }
        let outcome = self.refresh_now(&mut refreshed).await;
        if let Err(error) = &outcome {
            tracing::debug!(error = error as &dyn std::error::Error, "an unknown key could not be looked up");
        }
        outcome.is_ok()
    }

    async fn refresh_now(&self, refreshed: &mut Option<Refresh>) -> Result<(), sqlx::Error> {
        let began = Instant::now();
        let outcome = self.read_changes().await;
        *refreshed = Some(Refresh { began, has_succeeded: outcome.is_ok() });
        outcome
    }

    async fn read_changes(&self) -> Result<(), sqlx::Error> {
        let before = self.known();
        let reading = async {
            let version: i64 = sqlx::query_scalar("select version from access.state").fetch_one(&self.pool).await?;
            if version == before.version { Ok(None) } else { Known::load(&self.pool, &before).await.map(Some) }
        };
        let read = timeout(QUERY_TIMEOUT, reading).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        if let Some(now) = read {
            before.end_all_but(&now);
            now.tell_of_keys(&self.first_key);
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        }
        Ok(())
    }

    async fn write_uses(&self) -> Result<(), sqlx::Error> {
        let known = self.known();
        let was_used = |secrets: &[Credential]| {
            secrets.first().is_some_and(|secret| secret.key.used.swap(false, Ordering::Relaxed))
        };
        let used: Vec<_> = known.keys.iter().filter(|(_, secrets)| was_used(secrets)).map(|(id, _)| id).collect();
        if used.is_empty() {
            return Ok(());
        }
        let writing = sqlx::query("update access.keys set last_used_at = now() where id = any($1)").bind(used);
        timeout(QUERY_TIMEOUT, writing.execute(&self.pool)).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A row of `access.keys`: id, name, scopes, its secret's hash, the one before and until when, and its own end.
type KeyRow =
    (String, String, Vec<String>, Vec<u8>, Option<Vec<u8>>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, bool);
/// A row of `access.sessions`: id, key, its secret's hash, the key's, and its end.
type SessionRow = (String, String, Vec<u8>, Vec<u8>, DateTime<Utc>);

impl Known {
    /// Reads both tables. What has not changed goes on: streams do not end because another key was made.
    async fn load(pool: &PgPool, before: &Self) -> Result<Self, sqlx::Error> {
        // The version first: what changes while the rest is read is then seen the next time.
        let version = sqlx::query_scalar("select version from access.state").fetch_one(pool).await?;
        let keys: Vec<KeyRow> = sqlx::query_as(
            "select id, name, scopes, secret_hash, previous_secret_hash, previous_expires_at, expires_at,
                revoked_at is not null
            from access.keys",
        )
        .fetch_all(pool)
        .await?;
        let sessions: Vec<SessionRow> = sqlx::query_as(
            "select id, key_id, secret_hash, key_secret_hash, expires_at from access.sessions where expires_at > now()",
        )
        .fetch_all(pool)
        .await?;
        let mut now = Self { version, ..Self::default() };
        for row in keys {
            let (id, secrets) = before.key_of(row);
            now.keys.insert(id, secrets);
        }
        for (id, key_id, hash, key_secret, expires_at) in sessions {
            let Some(hash) = SecretHash::from_bytes(&hash) else { continue };
            let parents = now.keys.get(&key_id).into_iter().flatten();
            // Of a key whose secret was replaced since, and is not taken any more, there is no parent.
            let Some(parent) = parents.into_iter().find(|parent| parent.hash.as_bytes() == key_secret) else {
                continue;
            };
            if parent.rejection().is_some() {
                continue;
            }
            let going_on = before.sessions.get(&id).map(|session| &session.ended).filter(|ended| !ended.is_cancelled());
            let session = Credential {
                key: Arc::clone(&parent.key),
                hash,
                key_secret: parent.hash,
                expires_at: earlier(parent.expires_at, Some(expires_at)),
                ended: going_on.cloned().unwrap_or_else(|| parent.ended.child_token()),
            };
            now.sessions.insert(id, session);
        }
        Ok(now)
    }

    /// A key and its secrets. Those that were good before, and allow the same now, go on.
    fn key_of(&self, row: KeyRow) -> (String, Vec<Credential>) {
        let (id, name, scopes, hash, previous, previous_until, expires_at, is_revoked) = row;
        let before = self.keys.get(&id).map(Vec::as_slice).unwrap_or_default();
        let facts = KeyFacts {
            id: format!("key:{id}").into(),
            name: name.into(),
            scopes: scopes.into(),
            is_revoked,
            used: AtomicBool::new(before.first().is_some_and(|secret| secret.key.used.load(Ordering::Relaxed))),
        };
        let facts = Arc::new(facts);
        let present = SecretHash::from_bytes(&hash).map(|hash| (hash, expires_at));
        let previous = previous.and_then(|hash| SecretHash::from_bytes(&hash));
        let previous = previous.map(|hash| (hash, earlier(expires_at, previous_until)));
        let secrets = present.into_iter().chain(previous).map(|(hash, expires_at)| {
            let same = before.iter().find(|secret| secret.hash == hash && secret.key.scopes == facts.scopes);
            let going_on = same.map(|secret| &secret.ended).filter(|ended| !ended.is_cancelled());
            let ended = going_on.cloned().unwrap_or_default();
            Credential { key: Arc::clone(&facts), hash, key_secret: hash, expires_at, ended }
        });
        (id, secrets.collect())
    }

    fn key(&self, secret: &Secret) -> Result<Credential, Rejected> {
        let hash = secret.hash();
        let secrets = self.keys.get(secret.id()).map(Vec::as_slice).unwrap_or_default();
        let credential = secrets.iter().find(|credential| credential.hash.is(&hash)).ok_or(Rejected::Unknown)?;
        credential.rejection().map_or_else(|| Ok(credential.clone()), Err)
    }

    fn session(&self, secret: &Secret) -> Result<Credential, Rejected> {
        let session = self.sessions.get(secret.id()).filter(|session| session.hash.is(&secret.hash()));
        let session = session.ok_or(Rejected::Unknown)?;
        session.rejection().map_or_else(|| Ok(session.clone()), Err)
    }

    fn tell_of_keys(&self, first_key: &CancellationToken) {
        if !self.keys.is_empty() {
            first_key.cancel();
        }
    }

    fn secrets(&self) -> impl Iterator<Item = &Credential> {
        self.keys.values().flatten().chain(self.sessions.values())
    }

    /// Ends what goes on with secrets whose time is over.
    fn end_expired(&self) {
        self.secrets().filter(|secret| secret.rejection().is_some()).for_each(|secret| secret.ended.cancel());
    }

    /// Ends what goes on with secrets that are not good any more.
    fn end_all_but(&self, now: &Self) {
        now.end_expired();
        for (id, secrets) in &self.keys {
            let left = now.keys.get(id).map(Vec::as_slice).unwrap_or_default();
            for secret in secrets {
                if !left.iter().any(|left| left.hash == secret.hash && left.key.scopes == secret.key.scopes) {
                    secret.ended.cancel();
                }
            }
        }
        for (id, session) in &self.sessions {
            if !now.sessions.contains_key(id) {
                session.ended.cancel();
            }
        }
    }
}

impl Credential {
    /// Why it is not taken, if it is not.
    fn rejection(&self) -> Option<Rejected> {
        if self.key.is_revoked {
            return Some(Rejected::Revoked);
        }
        self.expires_at.filter(|at| *at <= Utc::now()).map(Rejected::Expired)
    }
}

/// The first of two ends, of which there may be none.
fn earlier(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    [one, other].into_iter().flatten().min()
}
