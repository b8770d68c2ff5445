//! Downloads a file: all of it, however often the connection breaks, or nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use indicatif::HumanBytes;
use reqwest::header::{IF_RANGE, RANGE};
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use uuid::Uuid;

use super::{ATTEMPTS, Failure, Made, PAUSE};
use crate::command::CommandError;
use crate::command::client::Server;
use crate::command::progress::Progress;

/// Downloads the file of an export, into that file or to standard output.
pub(super) async fn download(server: &Server, id: Uuid, made: &Made, path: Option<&Path>) -> Result<(), CommandError> {
    let mut output = Output::open(path)?;
    let bar = "{prefix} {wide_bar} {percent:>3}%  {msg}, {bytes_per_sec}";
    let mut progress = Progress::begin("downloading".to_owned(), Some(made.size), bar);
    let mut hash = Sha256::new();
    let mut received = 0;
    let mut failures = 0;
    while received < made.size {
        let before = received;
        let outcome = continue_download(server, id, made, &mut received, |bytes| {
            hash.update(bytes);
            output.write(bytes)
        })
        .await;
        progress.show(received, || format!("{} of {}", HumanBytes(received), HumanBytes(made.size)));
        match outcome {
            Ok(()) => {}
            Err(Broken::Server(Failure::Away(_))) if received > before => failures = 0,
            Err(Broken::Server(Failure::Away(_))) if failures < ATTEMPTS => {
                failures += 1;
                sleep(PAUSE).await;
            }
            Err(Broken::Server(failure)) => return Err(failure.into()),
            Err(Broken::Output(error)) => return Err(format!("cannot write {}: {error}", output.name()).into()),
        }
    }
    let digest = hex::encode(hash.finalize());
    if digest != made.sha256 {
        return Err(format!("what arrived is not what was sent: its SHA-256 is {digest}, not {}", made.sha256).into());
    }
    let name = output.name();
    output.finish().map_err(|error| format!("cannot write {name}: {error}").into())
}

/// Why a download stops.
enum Broken {
    Server(Failure),
    Output(io::Error),
}

/// Asks for what is missing, and takes what comes.
async fn continue_download(
    server: &Server,
    id: Uuid,
    made: &Made,
    received: &mut u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Broken> {
    let mut request = server.request(Method::GET, &format!("/exports/{id}/data"));
    if *received > 0 {
        request = request.header(RANGE, format!("bytes={received}-")).header(IF_RANGE, format!("\"{}\"", made.sha256));
    }
    let response = server.send(request).await.map_err(Broken::Server)?;
    if *received > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        let failure = Failure::Refused("the file on the server is another one by now".to_owned());
        return Err(Broken::Server(failure));
    }
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Broken::Server(crate::command::client::away(&error)))?;
        take(&piece).map_err(Broken::Output)?;
        *received += piece.len() as u64;
    }
    Ok(())
}

/// Where the bytes go. A file has its name when it is whole.
enum Output {
    Standard(io::Stdout),
    File { file: File, unfinished: PathBuf, path: PathBuf },
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path else { return Ok(Self::Standard(io::stdout())) };
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".part");
        let file = File::create(&unfinished).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self::File { file, unfinished: unfinished.into(), path: path.to_owned() })
    }

    fn name(&self) -> String {
        match self {
            Self::Standard(_) => "standard output".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard(output) => output.write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        match &mut self {
            Self::Standard(output) => output.flush(),
            Self::File { file, unfinished, path } => {
                file.sync_all()?;
                fs::rename(unfinished, path)
            }
        }
    }
}

impl Drop for Output {
    /// What is not whole does not lie around. After a rename there is nothing to remove.
    fn drop(&mut self) {
        if let Self::File { unfinished, .. } = self {
            let _ = fs::remove_file(unfinished);
        }
    }
}
