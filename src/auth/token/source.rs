//! Where the provider's keys are: behind a URL or in a file.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, StatusCode, Url};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::settings::is_this_machine;

/// A set of keys that takes longer to come is not waited for: requests with tokens under a new key are waiting. They
/// are answered from the keys that are there, and the next attempt is made in a few seconds.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// No set of keys is as long, at half a kilobyte a key; what is longer is not read to its end, and refused.
const MAX_BYTES: usize = 1024 * 1024;
/// Providers send from one name to another, and perhaps to a nearer server. Who sends further is asked no more.
const MAX_REDIRECTS: usize = 3;

/// Where to find the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    File(PathBuf),
    Url(Url),
}

/// Why there are no keys from there.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("the file cannot be read")]
    File(#[source] io::Error),
    #[error("it cannot be fetched")]
    Fetch(#[source] reqwest::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("it did not come within {LOAD_TIMEOUT:?}")]
    Slow,
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("it is not a JWK set")]
    NotASet(#[source] serde_json::Error),
    #[error("none of its {all} keys can be used to verify signatures")]
    NoUsableKey {
        /// How many keys there are.
        all: usize,
    },
}

impl KeySource {
    /// Reads the document.
    pub(super) async fn load(&self) -> Result<Vec<u8>, KeySetError> {
        let loading = async {
            match self {
                Self::File(path) => {
                    let file = File::open(path).await.map_err(KeySetError::File)?;
                    let mut document = Vec::new();
                    let one_too_many = MAX_BYTES as u64 + 1;
                    file.take(one_too_many).read_to_end(&mut document).await.map_err(KeySetError::File)?;
                    if document.len() > MAX_BYTES { Err(KeySetError::TooLong) } else { Ok(document) }
                }
                Self::Url(url) => fetch(url).await,
            }
        };
        tokio::time::timeout(LOAD_TIMEOUT, loading).await.unwrap_or(Err(KeySetError::Slow))
    }
}

async fn fetch(url: &Url) -> Result<Vec<u8>, KeySetError> {
    // The URL may have secrets in it, which do not belong into logs.
    let failure = |error: reqwest::Error| KeySetError::Fetch(error.without_url());
    let mut answer = client(url).map_err(failure)?.get(url.clone()).send().await.map_err(failure)?;
    if answer.status() != StatusCode::OK {
        return Err(KeySetError::Status(answer.status()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failure)? {
        if document.len() + chunk.len() > MAX_BYTES {
            return Err(KeySetError::TooLong);
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

/// A client for one request: minutes pass until the next, longer than connections are kept, and meanwhile the machine's
/// certificates may have been renewed.
fn client(url: &Url) -> Result<Client, reqwest::Error> {
    let builder = Client::builder().redirect(Policy::custom(redirect));
    // What comes in the clear from this machine is not to come from elsewhere.
    if url.scheme() == "http" { builder.no_proxy() } else { builder }.build()
}

/// Follows to where the keys could have been fetched from in the first place, and not from safety into the clear.
fn redirect(attempt: Attempt) -> reqwest::redirect::Action {
    let (from, to) = (attempt.previous(), attempt.url());
    let is_safe = to.scheme() == "https" || to.scheme() == "http" && is_this_machine(to);
    if from.iter().any(|url| url.scheme() != to.scheme()) || !is_safe {
        attempt.error("it sends to where keys are not fetched from")
    } else if from.len() > MAX_REDIRECTS {
        attempt.error("it sends from one place to the next")
    } else {
        attempt.follow()
    }
}
