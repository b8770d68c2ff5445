//! A client of the REST interface that tells "no" from "nobody there".

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::command::CommandError;

/// A server that takes longer to answer is as good as away. Longer than its own limit for reaching the database.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody answers, or only to say that they cannot now. Whether the request was done is not known.
    #[error("{0}")]
    Away(String),
    /// The server says no.
    #[error("{0}")]
    Refused(String),
}

/// What became of a bulk request.
#[derive(Debug, Deserialize)]
pub(super) struct BulkAnswer {
    pub(super) inserted: u64,
    pub(super) unchanged: u64,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<R> {
    pub(super) data: Vec<R>,
}

/// A user or an item, as far as the demo wants to know.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) base_item_id: Option<Uuid>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    url: String,
    client: Client,
}

impl Server {
    /// The server at an address, with a key if it takes one, and so many connections to keep. With https://, its certificate must come from whom the
    /// system trusts, or those in the file.
    pub(super) fn new(
        url: &Url,
        key: Option<&str>,
        trusted: Option<&PathBuf>,
        connections: usize,
    ) -> Result<Self, CommandError> {
        let client = Client::builder().timeout(TIMEOUT).pool_max_idle_per_host(connections);
        let client = match key.filter(|key| !key.is_empty()) {
            Some(key) => client.default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer(key)?)])),
            None => client,
        };
        let client = match trusted {
            Some(path) => client.tls_certs_merge(certificates(path)?),
            // Without TLS nobody needs to be trusted: a system that has no list of whom to trust will do.
            None if url.scheme() == "http" => client.tls_certs_only([]),
            None => client,
        };
        Ok(Self { url: url.as_str().trim_end_matches('/').to_owned(), client: client.build()? })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is ready.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        self.send(self.client.get(format!("{}/readyz", self.url))).await.map(drop)
    }

    /// The newest rows.
    pub(super) async fn newest(&self, path: &str) -> Result<Page<Row>, Failure> {
        decode(&self.send(self.client.get(format!("{}{path}?page_size=1000", self.url))).await?)
    }

    /// Creates one row.
    pub(super) async fn create(&self, path: &str, body: &serde_json::Value) -> Result<(), Failure> {
        self.send(self.client.post(format!("{}{path}", self.url)).json(body)).await.map(drop)
    }

    /// Creates those that are new.
    pub(super) async fn create_all(&self, path: &str, bodies: &[serde_json::Value]) -> Result<BulkAnswer, Failure> {
        decode(&self.send(self.client.post(format!("{}{path}?skip_rejected=true", self.url)).json(bodies)).await?)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let away = |error: reqwest::Error| Failure::Away(root_cause(&error));
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let body = response.bytes().await.map_err(away)?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let problem = serde_json::from_slice(&body).map(|problem: Problem| format!(": {}", problem.detail));
        let text = format!("{status}{}", problem.unwrap_or_default());
        Err(match status {
            // A proxy says the second and the third of a server that is away; and the last one is over soon.
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => Failure::Away(text),
            StatusCode::UNAUTHORIZED => Failure::Refused(format!("{text} (the demo takes a key from NEWCYCLE_KEY)")),
            _ => Failure::Refused(text),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let name = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("cannot read --ca-certificate {name}: {error}"))?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        Err(format!("there is no certificate in {name} that can be read"))
    } else {
        Ok(certificates)
    }
}

fn bearer(key: &str) -> Result<HeaderValue, CommandError> {
    let value: Result<HeaderValue, _> = format!("Bearer {key}").parse();
    let mut value = value.map_err(|_| "the key has characters that no key has")?;
    value.set_sensitive(true);
    Ok(value)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Refused(format!("an answer that is not understood: {error}")))
}

/// "Connection refused" says more than that a request could not be sent.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
