//! Where records come from.
//!
//! A [`Source`] fetches one page at a time, from a position of its own kind. What it cannot do falls into a few classes
//! ([`FetchError`]), by which the worker decides what comes next. Sources share one HTTP client ([`client`]) that goes to
//! public addresses only, takes no more than there is room for, and sends secrets nowhere else.

mod client;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod http;
mod hubspot;
mod network;
mod oauth;
mod secrets;

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub(super) use client::Client;
pub(super) use http::HttpSource;
pub(super) use hubspot::HubspotSource;
pub use network::AllowedNetworks;
pub(super) use secrets::Auth;

use super::definition::Invalid;

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceSettings {
    /// Any HTTP API that answers with JSON.
    Http(Box<HttpSource>),
    /// Objects of a HubSpot CRM.
    Hubspot(Box<HubspotSource>),
}

/// A record, as its source has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// What identifies it in the source; nothing if it has nothing that could.
    pub key: Option<String>,
    /// All of it.
    pub record: Value,
}

/// A page of records.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records.
    pub records: Vec<Fetched>,
    /// Where the next page is; nothing after the last one.
    pub next: Option<Value>,
    /// The greatest value of the field by which only what is new is fetched.
    pub mark: Option<Value>,
    /// How many bytes they came in.
    pub bytes: u64,
    /// How long the source would like not to be asked again.
    pub pause: Duration,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It may go better later: the source is away, slow or broken.
    #[error("{reason}")]
    Transient {
        /// Why, for people.
        reason: String,
        /// The source says when to come again.
        retry_after: Option<Duration>,
    },
    /// The source has been asked too often (429), and says when to come again, if it does.
    #[error("the source wants to be asked less often (429)")]
    Limited {
        /// When.
        retry_after: Option<Duration>,
    },
    /// What was read so far is not what there is any more: it has to be read anew.
    #[error("{0}")]
    Moved(String),
    /// The source does not know who asks (401): a token may be over; otherwise somebody has to change something.
    #[error("{0}")]
    Denied(String),
    /// Somebody has to change something: what, for people.
    #[error("{0}")]
    User(String),
}

impl FetchError {
    pub(super) fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None }
    }
}

/// Something that has records.
pub trait Source: Send + Sync {
    /// Fetches the page at a position; the first one without.
    fn fetch<'a>(&'a self, position: Option<&'a Value>) -> BoxFuture<'a, Result<Page, FetchError>>;
}

impl SourceSettings {
    /// Takes the secrets out, which are kept elsewhere.
    pub fn take_auth(&mut self) -> Option<Auth> {
        match self {
            Self::Http(source) => source.auth.take(),
            Self::Hubspot(source) => source.auth.take(),
        }
    }

    /// Checks what can be checked without asking the source; names the field.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Http(source) => source.validate().map_err(|invalid| invalid.within("http")),
            Self::Hubspot(source) => source.validate().map_err(|invalid| invalid.within("hubspot")),
        }
    }

    /// The place that secrets are shown to.
    pub fn place(&self) -> String {
        let url = match self {
            Self::Http(source) => &source.url,
            Self::Hubspot(source) => &source.base_url,
        };
        url.origin().ascii_serialization()
    }

    /// What identifies a record.
    pub fn key_of(&self, record: &Value) -> Option<String> {
        match self {
            Self::Http(source) => source.key.text_of(record),
            Self::Hubspot(_) => hubspot::key(record),
        }
    }

    /// Whether a run fetches only what is new since the last one.
    pub fn is_incremental(&self) -> bool {
        match self {
            Self::Http(source) => source.incremental.is_some(),
            Self::Hubspot(source) => source.incremental,
        }
    }

    /// Opens it, with its secrets, to fetch what is new since the mark, if it does so.
    pub fn open(&self, client: Client, auth: Option<Auth>, mark: Option<Value>) -> Result<Box<dyn Source>, FetchError> {
        match self {
            Self::Http(source) => Ok(Box::new(http::Http::open(source, client, auth, mark))),
            Self::Hubspot(source) => Ok(Box::new(hubspot::Hubspot::open(source, client, auth, mark)?)),
        }
    }
}
