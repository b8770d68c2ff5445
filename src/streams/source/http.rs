//! Any HTTP API that answers with JSON, a page at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::header::{HeaderName, HeaderValue, LINK};
use reqwest::{Method, RequestBuilder, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::client::{Answer, Client, check_url};
use super::oauth::Credentials;
use super::secrets::{Auth, SecretText, hide};
use super::{FetchError, Fetched, Page, Source};
use crate::streams::definition::{Invalid, not_empty};
use crate::streams::field::Field;
use crate::streams::json::greater;

/// Headers that say who asks are kept secret, and so do not belong where everybody sees them.
const SECRET_HEADERS: [&str; 5] = ["authorization", "cookie", "proxy-authorization", "x-api-key", "api-key"];
const MOST_HEADERS: usize = 50;
/// Pages are counted from 0 or 1, most often.
const LARGEST_FIRST: u64 = 1_000_000_000;

/// An HTTP API that answers with JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSource {
    /// What is asked, with its query but for what paging adds.
    #[schema(example = "https://api.example.com/v1/assets?limit=100")]
    pub url: Url,
    /// How.
    #[serde(default)]
    pub method: FetchMethod,
    /// Sent along. What says who asks belongs in `auth`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body of a POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Who asks. Never shown again.
    #[serde(default, skip_serializing_if = "hide")]
    #[schema(write_only)]
    pub auth: Option<Auth>,
    /// How one gets from one page to the next; without, there is one page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pagination: Option<Pagination>,
    /// Where the array of records is in an answer; the answer itself, unless said otherwise.
    #[serde(default = "Field::everything")]
    #[schema(example = "/results")]
    pub records: Field,
    /// What identifies a record; `id`, unless said otherwise.
    #[serde(default = "id")]
    #[schema(example = "/id")]
    pub key: Field,
    /// How only what is new is fetched; without, everything is, each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental: Option<Incremental>,
}

fn id() -> Field {
    Field::named("id")
}

/// How a source is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum FetchMethod {
    /// As things are read.
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// As searches often are.
    #[serde(rename = "POST")]
    Post,
}

/// How one gets from one page to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pagination {
    /// An answer has a cursor, which is sent as a parameter of the query; the last one has none.
    Cursor {
        /// Where it is in an answer.
        at: Field,
        /// The parameter that it is sent in.
        #[schema(min_length = 1)]
        parameter: String,
    },
    /// An answer has a link to the next page: somewhere in it, or in its `Link` header (RFC 8288).
    NextLink {
        /// Where it is in an answer; in the header, unless said otherwise.
        #[serde(default)]
        at: Option<Field>,
    },
    /// Pages are counted; the one after the last is empty. What is deleted or inserted meanwhile moves records from one page to
    /// another, so that each page is read again after the next one.
    Page {
        /// The parameter that the number is sent in.
        #[schema(min_length = 1)]
        parameter: String,
        /// The number of the first page.
        #[serde(default = "one")]
        #[schema(maximum = 1_000_000_000)]
        first: u64,
        /// Whether pages are read again. Without, records may be missed.
        #[serde(default = "yes")]
        verify: bool,
    },
    /// Records are counted; after the last one there is none. Pages overlap by one record, to see whether what was deleted or
    /// inserted meanwhile has moved them.
    Offset {
        /// The parameter that the number of records to leave out is sent in.
        #[schema(min_length = 1)]
        parameter: String,
        /// Whether pages overlap. Without, records may be missed.
        #[serde(default = "yes")]
        verify: bool,
    },
}

const fn one() -> u64 {
    1
}

const fn yes() -> bool {
    true
}

/// How only what is new is fetched. Each batch keeps the greatest value of a field, and the next one asks for what is not below
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Incremental {
    /// The field of a record, for instance `updated_at`: a number, or a text that sorts, as moments in UTC do.
    pub field: Field,
    /// The parameter that the value is sent in.
    #[schema(min_length = 1)]
    pub parameter: String,
}

impl HttpSource {
    /// Checks what can be checked without asking the source; names the field.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        check_url(&self.url).map_err(|reason| Invalid::new("url", reason))?;
        if self.headers.len() > MOST_HEADERS {
            return Err(Invalid::new("headers", format!("may be {MOST_HEADERS} at most")));
        }
        for (name, value) in &self.headers {
            if SECRET_HEADERS.contains(&&*name.to_ascii_lowercase()) {
                return Err(Invalid::new("headers", format!("{name} belongs in auth, where it is kept secret")));
            }
            if name.parse::<HeaderName>().is_err() || value.parse::<HeaderValue>().is_err() {
                return Err(Invalid::new("headers", format!("{name:?} is no header")));
            }
        }
        if self.body.is_some() && self.method == FetchMethod::Get {
            return Err(Invalid::new("body", "is only for the method POST"));
        }
        if let Some(Incremental { parameter, .. }) = &self.incremental {
            not_empty("incremental.parameter", parameter)?;
        }
        self.pagination
            .as_ref()
            .map_or(Ok(()), Pagination::validate)
            .map_err(|invalid| invalid.within("pagination"))?;
        self.auth.as_ref().map_or(Ok(()), Auth::validate).map_err(|invalid| invalid.within("auth"))
    }
}

impl Pagination {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            // What is said to be the cursor must be one value, and the answer as a whole never is.
            Self::Cursor { at, .. } if *at == Field::everything() => {
                Err(Invalid::new("cursor.at", "must not be empty"))
            }
            Self::Cursor { parameter, .. } => not_empty("cursor.parameter", parameter),
            Self::NextLink { at } if *at == Some(Field::everything()) => {
                Err(Invalid::new("next_link.at", "must not be empty"))
            }
            Self::NextLink { .. } => Ok(()),
            // There is one more after each that can be counted.
            Self::Page { first, .. } if *first > LARGEST_FIRST => {
                Err(Invalid::new("page.first", format!("must be at most {LARGEST_FIRST}")))
            }
            Self::Page { parameter, .. } => not_empty("page.parameter", parameter),
            Self::Offset { parameter, .. } => not_empty("offset.parameter", parameter),
        }
    }
}

/// Where fetching goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Position {
    Cursor(String),
    Link(Url),
    /// The number of a page, and a digest of the keys on the one before.
    Page(u64, Option<String>),
    /// How many records were read, and the key of the last one.
    Offset(u64, Option<String>),
}

/// A source of which pages are fetched.
pub(super) struct Http {
    settings: HttpSource,
    connection: Connection,
    mark: Option<Value>,
}

/// How requests are sent: with the secrets.
pub(super) struct Connection {
    client: Client,
    auth: Option<Auth>,
    /// For tokens.
    credentials: Option<Credentials>,
}

impl Connection {
    pub(super) fn new(client: Client, auth: Option<Auth>) -> Self {
        let credentials = match &auth {
            Some(Auth::Oauth2 { token_url, client_id, client_secret, scope }) => Some(Credentials {
                url: token_url.clone(),
                id: client_id.clone(),
                secret: client_secret.clone(),
                scope: scope.clone(),
            }),
            _ => None,
        };
        Self { client, auth, credentials }
    }

    /// Asks; with another token, should the one that there was not be taken any more.
    pub(super) async fn ask(
        &self,
        method: &Method,
        url: &Url,
        finish: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, FetchError> {
        let mut is_first = true;
        loop {
            let (request, token) = self.authorize(method, url.clone()).await?;
            let secrets: Vec<_> = self.auth.iter().map(Auth::secret).chain(&token).collect();
            match (self.client.send(finish(request), &secrets).await, &self.credentials) {
                // Tokens may be revoked before their time.
                (Err(FetchError::Denied(_)), Some(credentials)) if is_first => {
                    self.client.tokens.forget(credentials);
                    is_first = false;
                }
                (answer, _) => return answer,
            }
        }
    }

    async fn authorize(
        &self,
        method: &Method,
        mut url: Url,
    ) -> Result<(RequestBuilder, Option<SecretText>), FetchError> {
        if let Some(Auth::Key { parameter: Some(name), value, .. }) = &self.auth {
            set_parameter(&mut url, name, value.expose());
        }
        let request = self.client.request(method.clone(), url)?;
        Ok(match (&self.auth, &self.credentials) {
            (_, Some(credentials)) => {
                let token = self.client.tokens.get(&self.client, credentials).await?;
                (request.bearer_auth(token.expose()), Some(token))
            }
            (Some(Auth::Bearer { token }), _) => (request.bearer_auth(token.expose()), None),
            (Some(Auth::Basic { username, password }), _) => {
                (request.basic_auth(username, Some(password.expose())), None)
            }
            (Some(Auth::Key { header: Some(name), value, .. }), _) => {
                let mut value = HeaderValue::from_str(value.expose())
                    .map_err(|_| FetchError::User("The key in auth cannot be sent in a header".to_owned()))?;
                value.set_sensitive(true);
                (request.header(name, value), None)
            }
            _ => (request, None),
        })
    }
}

/// Sets a parameter of the query, whether it was there or not.
fn set_parameter(url: &mut Url, name: &str, value: &str) {
    let others: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(other, _)| other != name).collect();
    url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
}

impl Http {
    pub(super) fn open(settings: &HttpSource, client: Client, auth: Option<Auth>, mark: Option<Value>) -> Self {
        Self { settings: settings.clone(), connection: Connection::new(client, auth), mark }
    }

    async fn page(&self, position: Option<Position>) -> Result<Page, FetchError> {
        let Some(pagination) = &self.settings.pagination else {
            let answer = self.ask(&self.settings.url, None).await?;
            return self.read(answer, None);
        };
        match (pagination, position) {
            (Pagination::Cursor { at, parameter }, position) => {
                let cursor = match &position {
                    Some(Position::Cursor(cursor)) => Some((parameter.as_str(), cursor.clone())),
                    _ => None,
                };
                let answer = self.ask(&self.settings.url, cursor).await?;
                let next = at.text_of(&answer.body).filter(|cursor| !cursor.is_empty());
                self.read(answer, next.map(Position::Cursor))
            }
            (Pagination::NextLink { at }, position) => {
                let url = match position {
                    Some(Position::Link(url)) => url,
                    _ => self.settings.url.clone(),
                };
                let answer = self.ask(&url, None).await?;
                let link = match at {
                    Some(at) => at.text_of(&answer.body).filter(|link| !link.is_empty()),
                    None => next_link(&answer),
                };
                let next = link.map(|link| self.join(&answer.url, &link)).transpose()?;
                self.read(answer, next.map(Position::Link))
            }
            (Pagination::Page { parameter, first, verify }, position) => {
                let (number, before) = match position {
                    Some(Position::Page(number, before)) => (number, before),
                    _ => (*first, None),
                };
                let ask = async |number: u64| {
                    let answer = self.ask(&self.settings.url, Some((parameter, number.to_string()))).await?;
                    self.read(answer, None)
                };
                let mut page = ask(number).await?;
                if let Some(before) = before
                    && digest(&ask(number - 1).await?) != before
                {
                    return Err(moved());
                }
                if !page.records.is_empty() {
                    page.next = position_value(Position::Page(number + 1, verify.then(|| digest(&page))));
                }
                Ok(page)
            }
            (Pagination::Offset { parameter, verify }, position) => {
                let (read, last) = match position {
                    Some(Position::Offset(read, last)) => (read, last.filter(|_| *verify)),
                    _ => (0, None),
                };
                let overlap = u64::from(last.is_some());
                let answer = self.ask(&self.settings.url, Some((parameter, (read - overlap).to_string()))).await?;
                let mut page = self.read(answer, None)?;
                if let Some(last) = last {
                    let is_same = page.records.first().is_some_and(|record| record.key.as_ref() == Some(&last));
                    if !is_same {
                        return Err(moved());
                    }
                    page.records.remove(0);
                }
                if let Some(record) = page.records.last() {
                    let read = read + page.records.len() as u64;
                    page.next = position_value(Position::Offset(read, record.key.clone()));
                }
                Ok(page)
            }
        }
    }

    async fn ask(&self, url: &Url, parameter: Option<(&str, String)>) -> Result<Answer, FetchError> {
        let HttpSource { method, headers, body, incremental, .. } = &self.settings;
        let mut url = url.clone();
        if let (Some(Incremental { parameter, .. }), Some(mark)) = (incremental, &self.mark) {
            let text = mark.as_str().map_or_else(|| mark.to_string(), str::to_owned);
            set_parameter(&mut url, parameter, &text);
        }
        if let Some((name, value)) = parameter {
            set_parameter(&mut url, name, &value);
        }
        let method = match method {
            FetchMethod::Get => Method::GET,
            FetchMethod::Post => Method::POST,
        };
        self.connection
            .ask(&method, &url, |request| {
                let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
                match body {
                    Some(body) => request.json(body),
                    None => request,
                }
            })
            .await
    }

    pub(super) fn read(&self, mut answer: Answer, next: Option<Position>) -> Result<Page, FetchError> {
        let HttpSource { records, key, incremental, .. } = &self.settings;
        let Some(Value::Array(found)) = records.take(&mut answer.body) else {
            let place = if *records == Field::everything() {
                "The answer".to_owned()
            } else {
                format!("{records} in the answer")
            };
            return Err(FetchError::User(format!("{place} is no array of records: change the source's records")));
        };
        let mark = incremental.as_ref().and_then(|incremental| {
            found.iter().filter_map(|record| incremental.field.of(record)).cloned().reduce(greater)
        });
        let records = found.into_iter().map(|record| Fetched { key: key.text_of(&record), record }).collect();
        let next = next.and_then(position_value);
        Ok(Page { records, next, mark, bytes: answer.bytes, pause: Duration::ZERO })
    }

    /// A link may be relative; it leads nowhere else, as it is followed with the secrets.
    pub(super) fn join(&self, from: &Url, link: &str) -> Result<Url, FetchError> {
        let url = from
            .join(link)
            .map_err(|_| FetchError::User(format!("The source's link to its next page is none: {link:?}")))?;
        if url.origin() != self.settings.url.origin() {
            let place = url.origin().ascii_serialization();
            return Err(FetchError::User(format!("The source's link to its next page leads elsewhere, to {place}")));
        }
        Ok(url)
    }
}

impl Source for Http {
    fn fetch<'a>(&'a self, position: Option<&'a Value>) -> BoxFuture<'a, Result<Page, FetchError>> {
        // A position of another kind is from before the pagination was changed: it begins anew.
        let position = position.and_then(|position| Position::deserialize(position).ok());
        self.page(position).boxed()
    }
}

fn position_value(position: Position) -> Option<Value> {
    serde_json::to_value(position).ok()
}

fn moved() -> FetchError {
    FetchError::Moved("Records came or went while they were read, so that some may have been missed".to_owned())
}

/// What a page is known by: which records are on it, in which order.
fn digest(page: &Page) -> String {
    let mut hash = Sha256::new();
    for Fetched { key, record } in &page.records {
        let key = key.clone().unwrap_or_else(|| record.to_string());
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key);
    }
    hex::encode(hash.finalize())
}

/// The link to the next page in the headers (RFC 8288).
pub(super) fn next_link(answer: &Answer) -> Option<String> {
    let links = answer.headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let mut links = links.flat_map(|value| value.split(", <")).filter_map(|link| {
        let (target, parameters) = link.trim().trim_start_matches('<').split_once('>')?;
        let is_next =
            parameters.split(';').filter_map(|parameter| parameter.trim().split_once('=')).any(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|rel| rel.eq_ignore_ascii_case("next"))
            });
        is_next.then(|| target.to_owned())
    });
    links.next()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderMap;
    use serde_json::json;

    use super::*;

    fn link(header: &str) -> Option<String> {
        let url = "https://example.com/".parse().expect("a URL");
        let headers = HeaderMap::from_iter([(LINK, header.parse().expect("a value"))]);
        next_link(&Answer { url, headers, body: Value::Null, bytes: 0 })
    }

    #[test]
    fn the_next_page_is_linked_in_a_header() {
        for (header, expected) in [
            (r#"<https://example.com/?page=2>; rel="next""#, Some("https://example.com/?page=2")),
            (r#"</?page=1>; rel=prev, </?page=3,4>; title="a; b"; REL="last Next""#, Some("/?page=3,4")),
            (r#"</?page=1>; rel="first""#, None),
            ("nonsense", None),
        ] {
            assert_eq!(link(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn parameters_are_set_once() {
        let mut url: Url = "https://example.com/?limit=5&after=a%26b".parse().expect("a URL");
        set_parameter(&mut url, "after", "c d");
        assert_eq!(url.as_str(), "https://example.com/?limit=5&after=c+d");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_the_field() {
        let source = |more: Value| {
            let mut value = json!({"url": "https://example.com/"});
            value.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
            serde_json::from_value::<HttpSource>(value).expect("a source").validate().map_err(|invalid| invalid.field)
        };
        for (more, expected) in [
            (json!({}), Ok(())),
            (json!({"url": "ftp://example.com/"}), Err("url")),
            (json!({"url": "https://me:hush@example.com/"}), Err("url")),
            (json!({"headers": {"Authorization": "Bearer x"}}), Err("headers")),
            (json!({"headers": {"a b": "c"}}), Err("headers")),
            (json!({"body": {}}), Err("body")),
            (json!({"body": {}, "method": "POST"}), Ok(())),
            (json!({"auth": {"key": {"value": "x"}}}), Err("auth.key")),
            (json!({"auth": {"key": {"value": "", "header": "X-Key"}}}), Err("auth.key.value")),
            (json!({"auth": {"key": {"value": "x", "header": "a b"}}}), Err("auth.key.header")),
            (json!({"auth": {"key": {"value": "x", "parameter": ""}}}), Err("auth.key.parameter")),
            (json!({"auth": {"bearer": {"token": ""}}}), Err("auth.bearer.token")),
            (
                json!({"auth": {"oauth2": {"token_url": "ftp://a/", "client_id": "a", "client_secret": "b"}}}),
                Err("auth.oauth2.token_url"),
            ),
            (json!({"pagination": {"cursor": {"at": "", "parameter": "after"}}}), Err("pagination.cursor.at")),
            (json!({"pagination": {"cursor": {"at": "next", "parameter": ""}}}), Err("pagination.cursor.parameter")),
            (json!({"pagination": {"next_link": {"at": ""}}}), Err("pagination.next_link.at")),
            (json!({"pagination": {"next_link": {}}}), Ok(())),
            (json!({"pagination": {"offset": {"parameter": ""}}}), Err("pagination.offset.parameter")),
            (json!({"incremental": {"field": "a", "parameter": ""}}), Err("incremental.parameter")),
            (json!({"auth": {"key": {"value": "x", "header": "X-Key"}}}), Ok(())),
        ] {
            assert_eq!(source(more.clone()), expected.map_err(str::to_owned), "{more}");
        }
    }
}
