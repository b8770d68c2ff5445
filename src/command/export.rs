//! `newcycle export`

mod download;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use futures_util::StreamExt;
use indicatif::{HumanBytes, HumanCount};
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::{Failure, Server, Target, away, decode};
use super::progress::Progress;
use super::{CommandError, cancel_on_signal, tell};
use crate::exports::{Compression, Dataset, Format, State};
use download::download;

/// How often a server that is away is asked again before it is given up, and how long after.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// What to export, where to.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXPORT_HELP)]
pub struct ExportSettings {
    /// What to export
    #[arg(value_parser = PossibleValuesParser::new(Dataset::ALL.map(Dataset::name)))]
    dataset: String,
    /// The file to write; - is standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// How to write it [default: as the file's name ends, or csv]
    #[arg(long, value_parser = PossibleValuesParser::new(Format::ALL.map(Format::name)))]
    format: Option<String>,
    /// How to compress it [default: as the file's name ends, or none]
    #[arg(long, value_parser = PossibleValuesParser::new(Compression::ALL.map(Compression::name)))]
    compression: Option<String>,
    /// From this moment on (RFC 3339); not for ownership
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Before this moment; of ownership, who owned what then
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// Only of this base item
    #[arg(long, value_name = "ID")]
    base_item: Option<Uuid>,
    /// How wide the buckets of statistics are [default: day]
    #[arg(long, value_name = "RESOLUTION")]
    resolution: Option<String>,
    /// By whose clocks days begin in statistics [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Leave the file on the server until its time is over
    #[arg(long)]
    keep: bool,
    #[command(flatten, next_help_heading = "Server")]
    target: Target,
}

const EXPORT_HELP: &str = "\
The server makes the file of one moment: everything in it was read in one snapshot. A download that breaks off is taken up
where it did, and what arrived is compared with the SHA-256 that the server tells. Ctrl-C cancels the export. A key needs
the scope exports.

Examples:
  newcycle export transfers -o transfers.parquet
  newcycle export transfers --from 2026-01-01T00:00:00Z --to 2027-01-01T00:00:00Z -o 2026.csv.zst
  newcycle export statistics --resolution hour --timezone Europe/Berlin | column -s, -t";

/// An export, as far as this command wants to know.
#[derive(Debug, Deserialize)]
struct Export {
    id: Uuid,
    state: State,
    progress: Done,
    reason: Option<String>,
    result: Option<Made>,
}

#[derive(Debug, Deserialize)]
struct Done {
    rows: u64,
    bytes: u64,
    estimated_rows: Option<u64>,
}

impl Done {
    fn show(&self, progress: &mut Progress) {
        if let Some(estimate) = self.estimated_rows {
            // An estimate is one: as long as there are rows to come, it is not the end.
            progress.set_total(estimate.max(self.rows + 1), "{prefix} {wide_bar}  {msg}");
        }
        progress.show(self.rows, || {
            let of_estimate = self.estimated_rows.map(|rows| format!(" of about {}", HumanCount(rows)));
            format!("{} rows{}, {}", HumanCount(self.rows), of_estimate.unwrap_or_default(), HumanBytes(self.bytes))
        });
    }
}

/// A file that can be downloaded.
#[derive(Debug, Deserialize)]
struct Made {
    rows: u64,
    size: u64,
    sha256: String,
}

pub(super) async fn run(settings: ExportSettings) -> Result<ExitCode, CommandError> {
    let is_standard_output = settings.output == Path::new("-");
    let (format, compression) = settings.form();
    let is_text = format != Format::Parquet.name() && compression == Compression::None.name();
    if is_standard_output && !is_text && io::stdout().is_terminal() {
        return Err("this is no text: name a file with --output, or lead standard output into a program".into());
    }
    let server = Server::new(&settings.target, 1)?;
    let stop = CancellationToken::new();
    let _stop_on_signal = tokio::spawn(cancel_on_signal(stop.clone()));
    let order = json!({
        "dataset": settings.dataset, "format": format, "compression": compression, "from": settings.from,
        "to": settings.to, "base_item_id": settings.base_item, "resolution": settings.resolution,
        "timezone": settings.timezone,
    });
    let Some(started) =
        stop.run_until_cancelled(server.ask(server.request(Method::POST, "/exports").json(&order))).await
    else {
        return Err("stopped; whether the export was started is not known".into());
    };
    let Export { id, .. } = started?;
    let exported = stop.run_until_cancelled(async {
        let made = follow(&server, id, &settings.dataset).await?;
        let output = (!is_standard_output).then_some(&*settings.output);
        download(&server, id, &made, output).await?;
        Ok::<_, CommandError>(made)
    });
    let Some(exported) = exported.await else {
        cancel(&server, id).await;
        return Err("cancelled".into());
    };
    let made = exported?;
    if !settings.keep {
        // It goes by itself as well, a little later.
        let _ = server.send(server.request(Method::DELETE, &format!("/exports/{id}"))).await;
    }
    let name = if is_standard_output { "standard output".into() } else { settings.output.display().to_string() };
    tell(&format!("{} rows, {} in {name}", HumanCount(made.rows), HumanBytes(made.size)));
    Ok(ExitCode::SUCCESS)
}

impl ExportSettings {
    /// The format and the compression that are wanted.
    fn form(&self) -> (&str, &str) {
        let name = self.output.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (name, compression) = match name.rsplit_once('.') {
            Some((name, "gz")) => (name, Compression::Gzip),
            Some((name, "zst")) => (name, Compression::Zstd),
            _ => (name, Compression::None),
        };
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let format = Format::ALL.into_iter().find(|format| format.name() == ending).unwrap_or(Format::Csv);
        (self.format.as_deref().unwrap_or(format.name()), self.compression.as_deref().unwrap_or(compression.name()))
    }
}

/// Watches an export until its file can be downloaded.
async fn follow(server: &Server, id: Uuid, what: &str) -> Result<Made, CommandError> {
    // Nobody knows yet how large it gets.
    let mut progress = Progress::begin(format!("making {what}"), None, "{prefix} {spinner}  {msg}");
    progress.show(0, || "waiting for a worker".to_owned());
    let mut failures = 0;
    loop {
        match watch(server, id, &mut progress).await {
            Ok(Some(export)) => match (export.state, export.result, export.reason) {
                (State::Complete, Some(made), _) => return Ok(made),
                (State::Failed, _, Some(reason)) => return Err(reason.into()),
                (state, ..) => return Err(format!("the export is {state}").into()),
            },
            // The stream was there: the server counts as new.
            Ok(None) => failures = 0,
            Err(Failure::Away(_)) if failures < ATTEMPTS => failures += 1,
            Err(failure) => return Err(failure.into()),
        }
        sleep(PAUSE).await;
    }
}

/// Reads the stream of an export, until it is over or the stream is.
async fn watch(server: &Server, id: Uuid, progress: &mut Progress) -> Result<Option<Export>, Failure> {
    let request = server.request(Method::GET, &format!("/exports/{id}/events"));
    let mut pieces = server.send(request.header(ACCEPT, "text/event-stream")).await?.bytes_stream();
    let mut buffer = Vec::new();
    let mut is_named = false;
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece.map_err(|error| away(&error)) else { return Ok(None) };
        buffer.extend_from_slice(&piece);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            // Heartbeats have a name, the export has none.
            is_named = line.starts_with(b"event:") || (is_named && line != b"\n");
            let Some(data) = line.strip_prefix(b"data: ").filter(|_| !is_named) else { continue };
            let export: Export = decode(data)?;
            if export.state.is_terminal() {
                return Ok(Some(export));
            }
            export.progress.show(progress);
        }
    }
    Ok(None)
}

async fn cancel(server: &Server, id: Uuid) {
    let cancelled = server.send(server.request(Method::POST, &format!("/exports/{id}/cancel"))).await;
    if let Err(Failure::Away(why)) = cancelled {
        tell(&format!("newcycle: the server could not be told to cancel the export {id}: {why}"));
    }
    // One that was complete already is downloaded by nobody.
    let _ = server.send(server.request(Method::DELETE, &format!("/exports/{id}"))).await;
}
