//! Objects of a HubSpot CRM, by version 3 of its API.
//!
//! Everything: `GET /crm/v3/objects/{object}`, pages of 100 by `after`. What is new: `POST /crm/v3/objects/{object}/search`,
//! sorted by when an object was modified, which gives out 10,000 results of a search: then another one begins where that one
//! ended. How often it may be asked it says in headers (`X-HubSpot-RateLimit-*`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::client::{Client, check_url};
use super::http::Connection;
use super::secrets::{Auth, hide};
use super::{FetchError, Fetched, Page, Source};
use crate::streams::definition::Invalid;
use crate::streams::json::greater;

const PAGE_SIZE: u32 = 100;
/// A search gives out so many results.
const SEARCH_WINDOW: u64 = 10_000;
/// Searches may be asked five times a second, which no header says.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);

/// Objects of a HubSpot CRM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubspotSource {
    /// Of which kind.
    pub object: HubspotObject,
    /// Which of their properties; HubSpot's choice, unless said otherwise.
    #[serde(default)]
    pub properties: Vec<String>,
    /// Whether only what was modified since the last run is fetched; otherwise everything is, each time.
    #[serde(default)]
    pub incremental: bool,
    /// The access token of a private app, as `bearer`. Never shown again.
    #[serde(default, skip_serializing_if = "hide")]
    #[schema(write_only)]
    pub auth: Option<Auth>,
    /// Another place that speaks HubSpot's API.
    #[serde(default = "public_url")]
    #[schema(default = "https://api.hubapi.com/")]
    pub base_url: Url,
}

/// A kind of object of a CRM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HubspotObject {
    /// People.
    Contacts,
    /// Companies.
    Companies,
    /// What is being sold.
    Deals,
}

impl HubspotObject {
    const fn name(self) -> &'static str {
        match self {
            Self::Contacts => "contacts",
            Self::Companies => "companies",
            Self::Deals => "deals",
        }
    }

    /// The property with the moment of the last change.
    const fn modified(self) -> &'static str {
        match self {
            Self::Contacts => "lastmodifieddate",
            Self::Companies | Self::Deals => "hs_lastmodifieddate",
        }
    }
}

fn public_url() -> Url {
    Url::parse("https://api.hubapi.com/").expect("it is a URL")
}

impl HubspotSource {
    /// Checks what can be checked without asking HubSpot; names the field.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        check_url(&self.base_url).map_err(|reason| Invalid::new("base_url", reason))?;
        match &self.auth {
            None => Ok(()),
            Some(auth @ Auth::Bearer { .. }) => auth.validate().map_err(|invalid| invalid.within("auth")),
            Some(_) => Err(Invalid::new("auth", "must be bearer, with the access token of a private app")),
        }
    }
}

/// Where fetching goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Position {
    after: Option<String>,
    /// From where on this search goes.
    since: Option<Value>,
}

impl Position {
    /// The position after a page, from what its answer says. A search that has given out all that it does is followed by another
    /// one, from the last moment that it has seen.
    fn next(&self, after: String, mark: Option<&Value>) -> Self {
        let is_over = after.parse().is_ok_and(|after: u64| after >= SEARCH_WINDOW);
        match mark {
            Some(mark) if is_over => Self { after: None, since: Some(mark.clone()) },
            _ => Self { after: Some(after), since: self.since.clone() },
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Listed {
    results: Vec<Value>,
    paging: Option<Paging>,
}

#[derive(Deserialize)]
struct Paging {
    next: Option<Next>,
}

#[derive(Deserialize)]
struct Next {
    after: String,
}

/// A CRM of which pages are fetched.
pub(super) struct Hubspot {
    settings: HubspotSource,
    connection: Connection,
    mark: Option<Value>,
}

impl Hubspot {
    pub(super) fn open(
        settings: &HubspotSource,
        client: Client,
        auth: Option<Auth>,
        mark: Option<Value>,
    ) -> Result<Self, FetchError> {
        if auth.is_none() {
            return Err(FetchError::User("HubSpot wants an access token: change the source's auth".to_owned()));
        }
        Ok(Self { settings: settings.clone(), connection: Connection::new(client, auth), mark })
    }

    async fn page(&self, position: Position) -> Result<Page, FetchError> {
        let HubspotSource { object, properties, incremental, base_url, .. } = &self.settings;
        let path = format!("crm/v3/objects/{}{}", object.name(), if *incremental { "/search" } else { "" });
        let mut url = base_url.join(&path).map_err(|_| FetchError::User("The base_url cannot be used".to_owned()))?;
        let answer = if *incremental {
            let search = self.search(&position);
            self.connection.ask(&Method::POST, &url, |request| request.json(&search)).await?
        } else {
            url.query_pairs_mut()
                .append_pair("limit", &PAGE_SIZE.to_string())
                .extend_pairs((!properties.is_empty()).then(|| ("properties", properties.join(","))))
                .extend_pairs(position.after.as_ref().map(|after| ("after", after)));
            self.connection.ask(&Method::GET, &url, |request| request).await?
        };
        let pause = pause(&answer.headers).max(if *incremental { SEARCH_PAUSE } else { Duration::ZERO });
        let listed: Listed = serde_json::from_value(answer.body)
            .map_err(|error| FetchError::User(format!("The answer is not one of HubSpot's: {error}")))?;
        let modified = |record: &Value| {
            let property = &record["properties"][object.modified()];
            let moment = if property.is_string() { property } else { &record["updatedAt"] };
            moment.is_string().then(|| moment.clone())
        };
        let mark = if *incremental { listed.results.iter().filter_map(modified).reduce(greater) } else { None };
        let next =
            listed.paging.and_then(|paging| paging.next).map(|Next { after }| position.next(after, mark.as_ref()));
        let records = listed.results.into_iter().map(|record| Fetched { key: key(&record), record }).collect();
        let next = next.and_then(|next| serde_json::to_value(next).ok());
        Ok(Page { records, next, mark, bytes: answer.bytes, pause })
    }

    fn search(&self, position: &Position) -> Value {
        let HubspotSource { object, properties, .. } = &self.settings;
        let mut search = json!({
            "limit": PAGE_SIZE,
            "sorts": [{"propertyName": object.modified(), "direction": "ASCENDING"}],
        });
        if let Some(since) = position.since.as_ref().or(self.mark.as_ref()).and_then(millis) {
            let filter = json!({"propertyName": object.modified(), "operator": "GTE", "value": since.to_string()});
            search["filterGroups"] = json!([{"filters": [filter]}]);
        }
        if !properties.is_empty() {
            let all = properties.iter().map(String::as_str).chain([object.modified()]);
            search["properties"] = all.collect();
        }
        if let Some(after) = &position.after {
            search["after"] = json!(after);
        }
        search
    }
}

impl Source for Hubspot {
    fn fetch<'a>(&'a self, position: Option<&'a Value>) -> BoxFuture<'a, Result<Page, FetchError>> {
        let position = position.and_then(|position| Position::deserialize(position).ok()).unwrap_or_default();
        self.page(position).boxed()
    }
}

/// What identifies an object.
pub(super) fn key(record: &Value) -> Option<String> {
    match &record["id"] {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// Filters take milliseconds since 1970.
pub(super) fn millis(mark: &Value) -> Option<i64> {
    Some(mark.as_str()?.parse::<DateTime<Utc>>().ok()?.timestamp_millis())
}

/// How long HubSpot would like not to be asked: for the rest of the interval, of which no more is known than its length.
pub(super) fn pause(headers: &HeaderMap) -> Duration {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    match (number("x-hubspot-ratelimit-remaining"), number("x-hubspot-ratelimit-interval-milliseconds")) {
        (Some(0), Some(interval)) => Duration::from_millis(interval),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_is_exhausted_is_followed_by_another() {
        let mark = json!("2026-01-01T00:00:00.000Z");
        let begin = Position { after: Some("9800".to_owned()), since: Some(json!("2025-01-01T00:00:00.000Z")) };
        let next = begin.next("9900".to_owned(), Some(&mark));
        assert_eq!(next, Position { after: Some("9900".to_owned()), since: begin.since.clone() });
        assert_eq!(next.next("10000".to_owned(), Some(&mark)), Position { after: None, since: Some(mark) });
        // Lists go on without end, and their cursors are no numbers of results.
        let list = Position::default().next("88123".to_owned(), None);
        assert_eq!(list, Position { after: Some("88123".to_owned()), since: None });
    }

    #[test]
    fn the_headers_say_when_it_was_enough() {
        let headers = |remaining: &str| {
            let headers =
                [("x-hubspot-ratelimit-remaining", remaining), ("x-hubspot-ratelimit-interval-milliseconds", "10000")];
            let named =
                |(name, value): (&'static str, &str)| (name.parse().expect("a name"), value.parse().expect("a value"));
            headers.map(named).into_iter().collect::<HeaderMap>()
        };
        assert_eq!(pause(&headers("0")), Duration::from_secs(10));
        assert_eq!(pause(&headers("1")), Duration::ZERO);
        assert_eq!(pause(&HeaderMap::new()), Duration::ZERO);
    }
}
