//! What a stream would make of records, before there is one.
//!
//! Of records that are sent along, it is said at once. Records of the source are for a worker to fetch: the server may not reach
//! it. What is wanted goes through the queue, sealed, as secrets may be in it; what came of it comes back the same way.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use tokio::time::timeout;
use utoipa::ToSchema;
use uuid::Uuid;

use super::definition::Invalid;
use super::destination::Destination;
use super::processing::{self, Prepared};
use super::record::StreamError;
use super::source::{Auth, FetchError, Fetched, SourceSettings};
use super::transform::{MOST_STEPS, Step};
use super::{Streams, json};
use crate::jobs::{self, Kind, Lease, LeaseError};

/// So many records say enough.
const MOST_RECORDS: usize = 20;
/// How long a worker may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A page that takes longer than this is none that somebody wants to wait for. Shorter than a lease, which is not renewed here.
const FETCH_TIMEOUT: Duration = Duration::from_secs(8);
/// Whoever waits looks this often even if no bell rings.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What nobody waits for any more goes.
const KEPT: &str = "10 minutes";

/// What is to be tried.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPreview {
    /// What is fetched: the first page of it. Not needed with `sample`.
    pub source: Option<SourceSettings>,
    /// A stream whose secret is used, if `source` has none and is at the same place.
    pub stream_id: Option<Uuid>,
    /// Records to try it on, instead of those of the source.
    #[schema(max_items = 20)]
    pub sample: Option<Vec<Value>>,
    /// What is done to each.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub transform: Vec<Step>,
    /// Where they would go besides.
    pub destination: Option<Destination>,
}

/// What would become of records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// The first records, in the source's order, 20 at most.
    pub records: Vec<Previewed>,
    /// How many there were on the page.
    pub page_records: usize,
    /// Whether there is another page.
    pub has_more: bool,
}

/// What would become of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Previewed {
    /// What identifies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// As the source has it.
    pub source: Value,
    /// As it would be stored. Not there if it is left out, or cannot be processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub record: Option<Value>,
    /// What it would become in the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ledger: Option<Value>,
    /// Why it cannot be processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
}

/// What a worker is asked for.
#[derive(Serialize, Deserialize)]
struct Wanted {
    source: SourceSettings,
    auth: Option<Auth>,
    transform: Vec<Step>,
    destination: Option<Destination>,
}

/// What a worker answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Preview(Preview),
    /// Somebody has to change something.
    Refused(String),
    /// It may go better later.
    Away(String),
}

impl Streams {
    /// What would become of records. Changes nothing.
    pub async fn preview(&self, new: NewPreview) -> Result<Preview, StreamError> {
        let NewPreview { source, stream_id, sample, transform, destination } = new;
        if transform.len() > MOST_STEPS {
            return Err(Invalid::new("transform", format!("may have {MOST_STEPS} steps at most")).into());
        }
        if let Some(Err((field, reason))) = destination.as_ref().map(Destination::validate) {
            return Err(Invalid::new(field, reason).into());
        }
        if let Some(Err(invalid)) = source.as_ref().map(SourceSettings::validate) {
            return Err(invalid.within("source").into());
        }
        match (source, sample) {
            (source, Some(sample)) if sample.len() <= MOST_RECORDS => {
                let key = |record: &Value| match &source {
                    Some(source) => source.key_of(record),
                    None => super::field::Field::named("id").text_of(record),
                };
                let records = sample.into_iter().map(|record| Fetched { key: key(&record), record }).collect();
                Ok(describe(records, &transform, destination.as_ref(), false))
            }
            (_, Some(_)) => Err(Invalid::new("sample", format!("may have {MOST_RECORDS} records at most")).into()),
            (None, None) => Err(Invalid::new("source", "is needed, or a sample").into()),
            (Some(mut source), None) => {
                let mut auth = source.take_auth();
                if let (None, Some(id)) = (&auth, stream_id) {
                    let stream = self.get(id).await?;
                    auth = if stream.source.place() == source.place() { self.secret_of(&stream)? } else { None };
                }
                self.ask(&Wanted { source, auth, transform, destination }).await
            }
        }
    }

    /// Has a worker fetch a page, and waits for what it says.
    async fn ask(&self, wanted: &Wanted) -> Result<Preview, StreamError> {
        let id = Uuid::now_v7();
        let text = serde_json::to_vec(wanted).map_err(|_| super::SealError::Unable)?;
        let sealed = self.0.seal.seal(id, &text)?;
        let mut ringing = self.listen();
        let mut transaction = self.0.pool.begin().await?;
        sqlx::query("insert into jobs.previews (id, wanted) values ($1, $2)")
            .bind(id)
            .bind(sealed)
            .execute(&mut *transaction)
            .await?;
        jobs::enqueue(&mut transaction, id, Kind::Preview).await?;
        transaction.commit().await?;
        let answered = async {
            loop {
                let answer: Option<Json<Answer>> = sqlx::query_scalar("select answer from jobs.previews where id = $1")
                    .bind(id)
                    .fetch_one(&self.0.pool)
                    .await?;
                if let Some(Json(answer)) = answer {
                    return Ok::<_, StreamError>(answer);
                }
                let _ = timeout(LOOK_INTERVAL, ringing.about(id)).await;
            }
        };
        let answer = timeout(PATIENCE, answered).await;
        sqlx::query("delete from jobs.previews where id = $1").bind(id).execute(&self.0.pool).await?;
        match answer {
            Ok(Ok(Answer::Preview(preview))) => Ok(preview),
            Ok(Ok(Answer::Refused(reason))) => Err(Invalid { field: "source".to_owned(), reason }.into()),
            Ok(Ok(Answer::Away(reason))) => Err(StreamError::Away(reason)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StreamError::Away("no worker has answered in time".to_owned())),
        }
    }
}

/// Fetches a page for somebody who wants to see what would become of it.
pub(super) async fn work(streams: Streams, lease: Lease) -> Result<(), LeaseError> {
    let pool = &streams.0.own_pool;
    sqlx::query("delete from jobs.previews where created_at < now() - $1::interval").bind(KEPT).execute(pool).await?;
    let sealed: Option<Vec<u8>> = sqlx::query_scalar("select wanted from jobs.previews where id = $1")
        .bind(lease.id)
        .fetch_optional(pool)
        .await?;
    let answer = match sealed {
        Some(sealed) => Some(fetch(&streams, lease.id, &sealed).await),
        // Nobody waits for it any more.
        None => None,
    };
    let mut transaction = pool.begin().await?;
    lease.hold(&mut transaction).await?;
    sqlx::query("update jobs.previews set answer = $2 where id = $1")
        .bind(lease.id)
        .bind(Json(&answer))
        .execute(&mut *transaction)
        .await?;
    lease.finish(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn fetch(streams: &Streams, id: Uuid, sealed: &[u8]) -> Answer {
    let opened = streams.0.seal.open(id, sealed).map_err(|error| error.to_string());
    let wanted = opened.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    let Wanted { source, auth, transform, destination } = match wanted {
        Ok(wanted) => wanted,
        Err(reason) => return Answer::Away(format!("the worker cannot read what is wanted: {reason}")),
    };
    let fetched = async { source.open(streams.0.client.clone(), auth, None)?.fetch(None).await };
    match timeout(FETCH_TIMEOUT, fetched).await {
        Ok(Ok(page)) => Answer::Preview(describe(page.records, &transform, destination.as_ref(), page.next.is_some())),
        Ok(Err(FetchError::User(reason) | FetchError::Denied(reason))) => Answer::Refused(reason),
        Ok(Err(error)) => Answer::Away(error.to_string()),
        Err(_) => Answer::Away(format!("the source has not answered within {} s", FETCH_TIMEOUT.as_secs())),
    }
}

fn describe(records: Vec<Fetched>, steps: &[Step], destination: Option<&Destination>, has_more: bool) -> Preview {
    let page_records = records.len();
    let describe = |Fetched { key, record }: Fetched| {
        if let Err(reason) = processing::storable(key.clone(), &record) {
            let source = json::displayable(record);
            return Previewed { key: None, source, record: None, ledger: None, reason: Some(reason) };
        }
        let mut previewed = Previewed { key, source: record, record: None, ledger: None, reason: None };
        let mapping = destination.map(|Destination::Ledger(mapping)| mapping);
        match processing::prepare(Uuid::nil(), steps, mapping, &previewed.source) {
            Ok(Some(Prepared { transformed, rows })) => {
                previewed.ledger = mapping.map(|_| json!(rows));
                previewed.record = Some(transformed);
            }
            Ok(None) => {}
            Err(reason) => previewed.reason = Some(reason),
        }
        previewed
    };
    Preview { records: records.into_iter().take(MOST_RECORDS).map(describe).collect(), page_records, has_more }
}
