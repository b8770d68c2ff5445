//! What a stream is to do, as somebody says it, and whether it can.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::destination::Destination;
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
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        example = "crm"
    )]
    pub name: String,
    /// What is fetched.
    pub source: SourceSettings,
    /// How many seconds lie between its runs; 300, unless `cron` says otherwise.
    #[schema(minimum = 1, maximum = 31_622_400, default = 300)]
    pub interval_seconds: Option<i64>,
    /// When it runs: minute, hour, day of month, month, day of week.
    #[schema(example = "*/15 8-18 * * MON-FRI")]
    pub cron: Option<String>,
    /// By whose clocks `cron` goes: an IANA name.
    #[schema(default = "UTC", example = "Europe/Berlin")]
    pub timezone: Option<String>,
    /// What is done to each record before it is stored, step by step.
    #[serde(default)]
    #[schema(max_items = 100)]
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
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: Option<String>,
    /// What is fetched. Without `auth`, the secret stays, if the source is at the same place.
    pub source: Option<SourceSettings>,
    /// How many seconds lie between its runs, instead of `cron`.
    #[schema(minimum = 1, maximum = 31_622_400)]
    pub interval_seconds: Option<i64>,
    /// When it runs, instead of `interval_seconds`.
    pub cron: Option<String>,
    /// By whose clocks.
    pub timezone: Option<String>,
    /// What is done to each record before it is stored.
    #[schema(max_items = 100)]
    pub transform: Option<Vec<Step>>,
    /// Where records go besides; null for nowhere.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Destination>)]
    pub destination: Option<Option<Destination>>,
}

/// A value that is there, also if it is null.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
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

impl Invalid {
    pub(super) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }

    /// The same of a field of that one.
    pub(super) fn within(self, field: &str) -> Self {
        Self { field: format!("{field}.{}", self.field), ..self }
    }
}

/// Refuses an empty text.
pub(super) fn not_empty(field: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() { Err(Invalid::new(field, "must not be empty")) } else { Ok(()) }
}

impl NewStream {
    /// Checks what can be checked without asking the source.
    pub fn validate(self) -> Result<Definition, Invalid> {
        let Self { name, mut source, interval_seconds, cron, timezone, transform, destination, desired } = self;
        let name = name.trim().to_owned();
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(Invalid::new("name", format!("must have 1 to {LONGEST_NAME} characters")));
        }
        source.validate().map_err(|invalid| invalid.within("source"))?;
        let timezone = timezone.unwrap_or_else(|| "UTC".to_owned());
        let zone =
            statistics::parse_time_zone(&timezone).map_err(|error| Invalid::new("timezone", error.to_string()))?;
        let interval_seconds = match (&cron, interval_seconds) {
            (Some(_), Some(_)) => return Err(Invalid::new("cron", "is instead of interval_seconds")),
            (Some(cron), None) => {
                Schedule::cron(cron, zone).map_err(|error| Invalid::new("cron", error.to_string()))?;
                None
            }
            (None, seconds) => Some(seconds.unwrap_or(DEFAULT_INTERVAL)),
        };
        if interval_seconds.is_some_and(|seconds| !(1..=LONGEST_INTERVAL).contains(&seconds)) {
            return Err(Invalid::new("interval_seconds", format!("must be between 1 and {LONGEST_INTERVAL}")));
        }
        if transform.len() > MOST_STEPS {
            return Err(Invalid::new("transform", format!("may have {MOST_STEPS} steps at most")));
        }
        destination
            .as_ref()
            .map_or(Ok(()), Destination::validate)
            .map_err(|(field, reason)| Invalid::new(field, reason))?;
        let auth = source.take_auth();
        for (field, value) in
            [("source", json!(source)), ("transform", json!(transform)), ("destination", json!(destination))]
        {
            if let Some(reason) = super::json::refusal(&value) {
                return Err(Invalid::new(field, reason));
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
            destination: self.destination.unwrap_or_else(|| stream.destination.clone()),
            desired: stream.desired,
        }
    }
}

impl Definition {
    /// Writes it down: of a new stream, or of one that is there.
    pub(super) async fn save(
        &self,
        connection: &mut PgConnection,
        id: Uuid,
        auth: Option<&str>,
        secrets: Option<&[u8]>,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "insert into jobs.streams
                (id, name, source, auth, secrets, interval_seconds, cron, timezone, transform, destination, is_incremental)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            on conflict (id) do update set
                name = excluded.name, source = excluded.source, auth = excluded.auth, secrets = excluded.secrets,
                interval_seconds = excluded.interval_seconds, cron = excluded.cron, timezone = excluded.timezone,
                transform = excluded.transform, destination = excluded.destination,
                is_incremental = excluded.is_incremental",
        )
        .bind(id)
        .bind(&self.name)
        .bind(Json(&self.source))
        .bind(auth)
        .bind(secrets)
        .bind(self.interval_seconds)
        .bind(&self.cron)
        .bind(&self.timezone)
        .bind(Json(&self.transform))
        .bind(self.destination.as_ref().map(Json))
        .bind(self.source.is_incremental())
        .execute(connection)
        .await
        .map(drop)
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
        let new_secrets = self.seal(id, definition.auth.as_ref())?;
        let (auth, secrets) = match &definition.auth {
            Some(auth) => (Some(auth.kind()), new_secrets.as_deref()),
            None if is_elsewhere => (None, None),
            None => (stream.auth.as_deref(), stream.secrets.as_deref()),
        };
        definition.save(&mut transaction, id, auth, secrets).await?;
        if definition.source != stream.source {
            // What is new there is not known.
            sqlx::query("update jobs.streams set mark = null where id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
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
