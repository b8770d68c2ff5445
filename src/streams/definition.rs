//! What a stream is to do, as somebody says it, and whether it can.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::destination::Destination;
use super::field::has_nul;
use super::record::{Locked, Stream, StreamError, cancel_batch, fetch, lock};
use super::schedule::Schedule;
use super::source::{Auth, SourceSettings};
use super::state::{Desired, State};
use super::transform::{MOST_STEPS, Step};
use super::{DEFAULT_INTERVAL, Streams};
use crate::jobs;
use crate::statistics;

const LONGEST_NAME: usize = 100;
/// A year.
const LONGEST_INTERVAL: i64 = 366 * 24 * 60 * 60;

/// A data stream to be created.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStream {
    /// What people call it. No other stream may have this name.
    #[schema(min_length = 1, max_length = 100, example = "crm")]
    pub name: String,
    /// What is fetched.
    pub source: SourceSettings,
    /// How many seconds lie between its runs; 300, unless `cron` says otherwise.
    #[schema(minimum = 1, default = 300)]
    pub interval_seconds: Option<i64>,
    /// When it runs: minute, hour, day of month, month, day of week.
    #[schema(example = "*/15 8-18 * * MON-FRI")]
    pub cron: Option<String>,
    /// By whose clocks `cron` goes: an IANA name.
    #[schema(default = "UTC", example = "Europe/Berlin")]
    pub timezone: Option<String>,
    /// What is done to each record before it is stored, step by step.
    #[serde(default)]
    pub transform: Vec<Step>,
    /// Where records go besides.
    pub destination: Option<Destination>,
    /// Whether it is started at once.
    #[serde(default = "stopped")]
    #[schema(default = "stopped")]
    pub desired: Desired,
}

const fn stopped() -> Desired {
    Desired::Stopped
}

/// What is to be different. What is not said stays as it is.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What people call it.
    #[schema(min_length = 1, max_length = 100)]
    pub name: Option<String>,
    /// What is fetched. Without `auth`, the secret stays, if the source is at the same place.
    pub source: Option<SourceSettings>,
    /// How many seconds lie between its runs, instead of `cron`.
    #[schema(minimum = 1)]
    pub interval_seconds: Option<i64>,
    /// When it runs, instead of `interval_seconds`.
    pub cron: Option<String>,
    /// By whose clocks.
    pub timezone: Option<String>,
    /// What is done to each record before it is stored.
    pub transform: Option<Vec<Step>>,
    /// Where records go besides.
    pub destination: Option<Destination>,
}

/// What a stream does, checked.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(super) name: String,
    pub(super) source: SourceSettings,
    pub(super) auth: Option<Auth>,
    pub(super) interval_seconds: Option<i64>,
    pub(super) cron: Option<String>,
    pub(super) timezone: String,
    pub(super) transform: Vec<Step>,
    pub(super) destination: Option<Destination>,
    pub(super) desired: Desired,
}

/// A field with a value that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field.
    pub field: String,
    /// Why not.
    pub reason: String,
}

fn invalid(field: &str, reason: impl Into<String>) -> Invalid {
    Invalid { field: field.to_owned(), reason: reason.into() }
}

impl NewStream {
    /// Checks what can be checked without asking the source.
    pub fn validate(self) -> Result<Definition, Invalid> {
        let Self { name, mut source, interval_seconds, cron, timezone, transform, destination, desired } = self;
        let name = name.trim().to_owned();
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(invalid("name", format!("must have 1 to {LONGEST_NAME} characters")));
        }
        source.validate().map_err(|(field, reason)| invalid(field, reason))?;
        let timezone = timezone.unwrap_or_else(|| "UTC".to_owned());
        let zone = statistics::parse_time_zone(&timezone).map_err(|error| invalid("timezone", error.to_string()))?;
        let interval_seconds = match (&cron, interval_seconds) {
            (Some(_), Some(_)) => return Err(invalid("cron", "is instead of interval_seconds")),
            (Some(cron), None) => {
                Schedule::cron(cron, zone).map_err(|error| invalid("cron", error.to_string()))?;
                None
            }
            (None, seconds) => Some(seconds.unwrap_or(DEFAULT_INTERVAL)),
        };
        if interval_seconds.is_some_and(|seconds| !(1..=LONGEST_INTERVAL).contains(&seconds)) {
            return Err(invalid("interval_seconds", format!("must be between 1 and {LONGEST_INTERVAL}")));
        }
        if transform.len() > MOST_STEPS {
            return Err(invalid("transform", format!("may have {MOST_STEPS} steps at most")));
        }
        destination.as_ref().map_or(Ok(()), Destination::validate).map_err(|(field, reason)| invalid(field, reason))?;
        let auth = source.take_auth();
        for (field, value) in
            [("source", json!(source)), ("transform", json!(transform)), ("destination", json!(destination))]
        {
            if has_nul(&value) {
                return Err(invalid(field, "has a NUL character, which Postgres cannot store"));
            }
        }
        Ok(Definition {
            name,
            source,
            auth,
            interval_seconds,
            cron,
            timezone: zone.name().to_owned(),
            transform,
            destination,
            desired,
        })
    }
}

impl Change {
    /// What a stream does afterwards.
    fn apply(self, stream: &Stream) -> NewStream {
        let is_rescheduled = self.cron.is_some() || self.interval_seconds.is_some();
        let (interval_seconds, cron) = if is_rescheduled {
            (self.interval_seconds, self.cron)
        } else {
            (stream.interval_seconds, stream.cron.clone())
        };
        NewStream {
            name: self.name.unwrap_or_else(|| stream.name.clone()),
            source: self.source.unwrap_or_else(|| stream.source.clone()),
            interval_seconds,
            cron,
            timezone: Some(self.timezone.unwrap_or_else(|| stream.timezone.clone())),
            transform: self.transform.unwrap_or_else(|| stream.transform.clone()),
            destination: self.destination.or_else(|| stream.destination.clone()),
            desired: stream.desired,
        }
    }
}

impl Streams {
    /// Changes what a stream does, from its next run on. A batch that waits to go on is given up.
    pub async fn change(&self, id: Uuid, change: Change) -> Result<Stream, StreamError> {
        let mut transaction = self.0.pool.begin().await?;
        let Locked { stream, now } = lock(&mut transaction, id).await?;
        if matches!(stream.state, State::Running | State::Stopping) {
            return Err(StreamError::WrongState(stream.state));
        }
        let definition = change.apply(&stream).validate()?;
        let is_elsewhere = definition.source.place() != stream.source.place();
        // A secret is for the place that it was given for: it is not to be sent to another.
        let secrets = match &definition.auth {
            Some(auth) => self.seal(id, Some(auth))?,
            None if is_elsewhere => None,
            None => stream.secrets.clone(),
        };
        let kind = definition.auth.as_ref().map(|auth| auth.kind().to_owned());
        let is_other_source = definition.source != stream.source;
        let auth = kind.or_else(|| stream.auth.clone()).filter(|_| secrets.is_some());
        sqlx::query(
            "update jobs.streams set
                name = $2, source = $3, auth = $4, secrets = $5, interval_seconds = $6, cron = $7, timezone = $8,
                transform = $9, destination = $10, is_incremental = $11, mark = case when $12 then null else mark end
            where id = $1",
        )
        .bind(id)
        .bind(&definition.name)
        .bind(Json(&definition.source))
        .bind(auth)
        .bind(secrets)
        .bind(definition.interval_seconds)
        .bind(&definition.cron)
        .bind(&definition.timezone)
        .bind(Json(&definition.transform))
        .bind(definition.destination.as_ref().map(Json))
        .bind(definition.source.is_incremental())
        .bind(is_other_source)
        .execute(&mut *transaction)
        .await?;
        cancel_batch(&mut transaction, id).await?;
        let changed = fetch(&mut transaction, id).await?;
        let is_rescheduled = (changed.interval_seconds, &changed.cron, &changed.timezone)
            != (stream.interval_seconds, &stream.cron, &stream.timezone);
        if changed.state == State::Waiting && (is_rescheduled || stream.retry_at.is_some()) {
            let at = if is_rescheduled { changed.schedule().first(now) } else { changed.next_run_at.unwrap_or(now) };
            reschedule(&mut transaction, id, at).await?;
        }
        let changed = fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(changed)
    }
}

async fn reschedule(connection: &mut PgConnection, id: Uuid, at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    jobs::put_off(connection, id, Some(at)).await?;
    sqlx::query("update jobs.streams set next_run_at = $2, retry_at = null where id = $1")
        .bind(id)
        .bind(at)
        .execute(connection)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn validate(more: &Value) -> Result<Definition, Invalid> {
        let mut value = json!({"name": "crm", "source": {"http": {"url": "https://example.com/"}}});
        value.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        serde_json::from_value::<NewStream>(value).expect("a stream").validate()
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let definition = validate(&json!({})).expect("a definition");
        assert_eq!((definition.interval_seconds, definition.timezone.as_str()), (Some(300), "UTC"));
        let definition = validate(&json!({"cron": "0 3 * * *", "timezone": "Europe/Berlin"})).expect("a definition");
        assert_eq!((definition.interval_seconds, definition.cron.as_deref()), (None, Some("0 3 * * *")));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_field() {
        for (more, field) in [
            (json!({"name": "  "}), "name"),
            (json!({"name": "x".repeat(101)}), "name"),
            (json!({"interval_seconds": 0}), "interval_seconds"),
            (json!({"interval_seconds": i64::MAX}), "interval_seconds"),
            (json!({"cron": "often"}), "cron"),
            (json!({"cron": "0 * * * *", "interval_seconds": 5}), "cron"),
            (json!({"timezone": "Mars/Olympus"}), "timezone"),
            (json!({"source": {"http": {"url": "file:///etc/passwd"}}}), "source.http.url"),
            (json!({"transform": vec![json!({"pick": ["a"]}); 101]}), "transform"),
            (json!({"destination": {"ledger": {}}}), "destination.ledger"),
            (json!({"transform": [{"constant": {"field": "a", "value": "\0"}}]}), "transform"),
        ] {
            assert_eq!(validate(&more).expect_err("it cannot be").field, field, "{more}");
        }
    }
}
