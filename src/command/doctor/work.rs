//! What servers and workers do beside requests: jobs, data streams, exports.

use std::path::Path;

use super::finding::Finding;
use super::questions::{Questions, Unanswered};
use super::{ServeSettings, for_people};
use crate::streams::{ENCRYPTION_KEY_FILE, Seal};
use uuid::Uuid;

/// A worker that died is noticed at the end of its lease, and its job taken at once.
const LATE_SECONDS: i64 = 120;
/// Readers of the report want the first few.
const SHOWN: usize = 3;

/// Jobs that are due and that nobody takes.
pub(super) async fn jobs(questions: &Questions, serve: &ServeSettings) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask(&format!(
            "select kind, count(*), extract(epoch from clock_timestamp() - min(due_at))::float8
            from jobs.queue
            where due_at > '-infinity' and due_at < clock_timestamp() - interval '{LATE_SECONDS} seconds'
            group by kind order by kind"
        ))
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (kind, amount, late): (String, i64, f64) = (row.get(0), row.get(1), row.get(2));
        let none_here = match kind.as_str() {
            "export" => serve.exports.export_workers == 0,
            _ => serve.streams.stream_workers == 0,
        };
        let setting = if kind == "export" { "NEWCYCLE_EXPORT_WORKERS" } else { "NEWCYCLE_STREAM_WORKERS" };
        let zero = if none_here { "; it is 0 here" } else { "" };
        Finding::problem(
            format!(
                "jobs of kind {kind} that are due and that nobody takes: {amount}, the first for {}",
                for_people(late)
            ),
            format!("start a server or `newcycle worker` with {setting} above 0{zero}; their log says if they fail"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

/// Streams that stopped until somebody changes something.
pub(super) async fn streams(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask("select name, id::text, coalesce(last_error, '') from jobs.streams where state = 'failed' order by last_error_at desc")
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (name, id, error): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        Finding::problem(
            format!("the data stream \"{name}\" was stopped by an error: {error}"),
            format!("repair that (dashboard, page Streams), then `curl -X PUT $api/streams/{id}/start`"),
        )
    };
    Ok(capped(rows.iter().map(finding).collect(), "data streams were stopped by errors"))
}

/// Records that could not be processed.
pub(super) async fn dead_letters(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask(
            "select s.name, count(*), min(d.reason) from jobs.dead_letters d join jobs.streams s on s.id = d.stream_id
            where d.state = 'dead' group by s.name order by 2 desc",
        )
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (name, amount, reason): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
        Finding::warning(
            format!("records of \"{name}\" that could not be processed: {amount}, such as: {reason}"),
            "GET /dead-letters (dashboard, page Streams) says which; change the stream, then POST /dead-letters/…/retry",
        )
    };
    Ok(capped(rows.iter().map(finding).collect(), "streams have dead letters"))
}

/// Exports that failed lately.
pub(super) async fn exports(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let row = questions
        .ask_one(
            "select count(*), (array_agg(reason order by finished_at desc))[1] from jobs.exports
            where state = 'failed' and finished_at > now() - interval '1 day'",
        )
        .await?;
    let (amount, reason): (i64, Option<String>) = (row.get(0), row.get(1));
    if amount == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::warning(
        format!("exports that failed in the last day: {amount}, the last one: {}", reason.unwrap_or_default()),
        "repair that, and start them again",
    )])
}

/// Whether the key that is there opens the secrets of data streams: after a restore it may be another one.
pub(super) async fn secrets(
    questions: &Questions,
    serve: &ServeSettings,
    data_dir: &Path,
) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions.ask("select id::text, name, secrets from jobs.streams where secrets is not null").await?;
    if rows.is_empty() {
        return Ok(vec![Finding::ok("no data stream has any")]);
    }
    let keys = &serve.streams.encryption_key;
    let file = data_dir.join(ENCRYPTION_KEY_FILE);
    let remedy = "put back the encryption.key, or the NEWCYCLE_ENCRYPTION_KEY, with which they were encrypted; if it is lost, \
        enter the secrets of these streams anew (dashboard, page Streams)";
    // Whoever asks for a key that is not there makes a new one.
    if keys.is_empty() && !file.exists() {
        let found = format!("data streams with secrets: {}, and {} is not there", rows.len(), file.display());
        return Ok(vec![Finding::problem(found, remedy)]);
    }
    let seal = Seal::new(keys, data_dir);
    let closed = |row: &tokio_postgres::Row| {
        let (id, name): (String, String) = (row.get(0), row.get(1));
        let id = Uuid::parse_str(&id).unwrap_or_default();
        let error = seal.open(id, row.get(2)).err()?;
        Some(Finding::problem(format!("the secrets of the data stream \"{name}\" cannot be read: {error}"), remedy))
    };
    Ok(capped(rows.iter().filter_map(closed).collect(), "data streams have secrets that cannot be read"))
}

/// The first few, and how many there are.
fn capped(mut findings: Vec<Finding>, what: &str) -> Vec<Finding> {
    let all = findings.len();
    if all > SHOWN {
        findings.truncate(SHOWN);
        findings.push(Finding::warning(format!("{all} {what} in all"), "see the dashboard for the others"));
    }
    findings
}
