//! A client of the REST interface that tells "no" from "nobody there".

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::CommandError;
use crate::tls::{file_or_nothing, named};

/// A server that says nothing for longer is as good as away. Longer than its own limit for reaching the database.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Which server, and who one is there.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// Address of the server
    #[arg(long, env = "NEWCYCLE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = parse_url)]
    url: Url,
    /// Whom else than the system does to trust with certificates for https://: a PEM file, for instance the server's own
    /// certificate if it has signed that itself
    #[arg(long, env = "NEWCYCLE_CA_CERTIFICATE", value_name = "FILE", value_parser = file_or_nothing())]
    ca_certificate: Option<PathBuf>,
    /// Key to say who you are with, if the server asks
    #[arg(long, env = "NEWCYCLE_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| "it is not a URL such as http://127.0.0.1:8080".to_owned())?;
    if ["http", "https"].contains(&url.scheme()) {
        Ok(url)
    } else {
        Err("it begins neither with http:// nor with https://".to_owned())
    }
}

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
    /// The server that is meant, with so many connections to keep. With https://, its certificate must come from whom the
    /// system trusts, or those in the file.
    pub(super) fn new(target: &Target, connections: usize) -> Result<Self, CommandError> {
        let client =
            Client::builder().connect_timeout(TIMEOUT).read_timeout(TIMEOUT).pool_max_idle_per_host(connections);
        let client = match target.key.as_deref().filter(|key| !key.is_empty()) {
            Some(key) => client.default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer(key)?)])),
            None => client,
        };
        let client = match named(target.ca_certificate.as_ref()) {
            Some(path) => client.tls_certs_merge(certificates(path)?),
            // Without TLS nobody needs to be trusted: a system that has no list of whom to trust will do.
            None if target.url.scheme() == "http" => client.tls_certs_only([]),
            None => client,
        };
        Ok(Self { url: target.url.as_str().trim_end_matches('/').to_owned(), client: client.build()? })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A request for that path.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// The answer to a request, if it is a good one.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| away(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| away(&error))?;
        let problem = serde_json::from_slice(&body).map(|problem: Problem| format!(": {}", problem.detail));
        let text = format!("{status}{}", problem.unwrap_or_default());
        Err(match status {
            // A proxy says the second and the third of a server that is away; and the last one is over soon.
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => Failure::Away(text),
            StatusCode::UNAUTHORIZED => Failure::Refused(format!("{text} (a key is taken from NEWCYCLE_KEY)")),
            _ => Failure::Refused(text),
        })
    }

    /// The same, and what it says.
    pub(super) async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let body = self.send(request).await?.bytes().await.map_err(|error| away(&error))?;
        decode(&body)
    }
}

/// Reads what a server said.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Refused(format!("an answer that is not understood: {error}")))
}

/// "Connection refused" says more than that a request could not be sent.
pub(super) fn away(error: &reqwest::Error) -> Failure {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Failure::Away(cause.to_string())
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
