//! The HTTP client of sources: goes where it may, waits for so long, and takes so much.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::FetchError;
use super::network::{AllowedNetworks, RefusedAddress};
use super::oauth::Tokens;
use super::secrets::SecretText;
use crate::streams::json;
use crate::telemetry::SPANS;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A page of a thousand records of 10 KB each is a third of it.
const MAX_BYTES: usize = 32 << 20;
const MAX_REDIRECTS: usize = 5;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// So much is repeated of what a source says that goes wrong.
const MAX_QUOTED: usize = 300;

/// The HTTP client of all sources. A shared handle.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    networks: AllowedNetworks,
    pub(super) tokens: Tokens,
}

/// What a source answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
    pub(super) bytes: u64,
}

/// A redirect that is not followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct RefusedRedirect(String);

impl Client {
    /// One that goes to public addresses and to these, and waits for an answer that long.
    pub fn new(networks: AllowedNetworks, timeout: Duration) -> Result<Self, reqwest::Error> {
        let checked = networks.clone();
        let http = reqwest::Client::builder()
            .user_agent(concat!("newcycle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            // A proxy would connect to whatever it is asked for.
            .no_proxy()
            .dns_resolver(Arc::new(networks.clone()))
            .redirect(Policy::custom(move |attempt| follow(attempt, &checked)))
            .build()?;
        Ok(Self { http, networks, tokens: Tokens::default() })
    }

    /// Begins a request.
    pub(super) fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, FetchError> {
        self.networks.check(&url).map_err(|error| FetchError::User(error.to_string()))?;
        Ok(self.http.request(method, url).header(ACCEPT, "application/json"))
    }

    /// Sends a request whose answer is JSON. None of the secrets is in an error.
    pub(super) async fn send(&self, request: RequestBuilder, secrets: &[&SecretText]) -> Result<Answer, FetchError> {
        let request = request.build().map_err(|error| explain(&error))?;
        let span = span(&request);
        let answered = self.answer(request, secrets).instrument(span.clone()).await;
        if answered.is_err() {
            span.record("otel.status_code", "error");
        }
        answered
    }

    async fn answer(&self, request: Request, secrets: &[&SecretText]) -> Result<Answer, FetchError> {
        let mut response = self.http.execute(request).await.map_err(|error| explain(&error))?;
        let status = response.status();
        Span::current().record("http.response.status_code", i64::from(status.as_u16()));
        let retry_after = retry_after(response.headers(), SystemTime::now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(FetchError::Limited { retry_after });
        }
        if !status.is_success() {
            // What it says may help; that it cannot be read does not matter.
            let text = collect(&mut response).await.unwrap_or_default();
            return Err(refused(status, &text, retry_after, secrets));
        }
        let url = response.url().clone();
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = media_type.is_empty() || media_type.ends_with("/json") || media_type.ends_with("+json");
        if !is_json {
            return Err(FetchError::transient(format!("The source answers with {media_type}, and not with JSON")));
        }
        let headers = response.headers().clone();
        let bytes = collect(&mut response).await?;
        let length = bytes.len() as u64;
        // Megabytes of it take the processor for a while.
        let parsing = tokio::task::spawn_blocking(move || json::parse(&bytes));
        let parsed = parsing.await.map_err(|error| FetchError::transient(error.to_string()))?;
        let body =
            parsed.map_err(|error| FetchError::transient(format!("The source answers with broken JSON: {error}")))?;
        Ok(Answer { url, headers, body, bytes: length })
    }
}

/// A page, or whatever is asked for on the way to one. Sources know nothing of our traces: what we do is none of their business.
/// Nor is in a trace where at a source something is: keys are in paths and queries of some.
fn span(request: &Request) -> Span {
    let url = request.url();
    tracing::info_span!(
        target: SPANS,
        "ask a source",
        otel.name = request.method().as_str(),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = request.method().as_str(),
        http.response.status_code = Empty,
        server.address = url.host_str(),
        server.port = url.port_or_known_default().map(i64::from),
    )
}

/// Whether a URL is one that can be fetched from at all.
pub(super) fn check_url(url: &Url) -> Result<(), String> {
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("must be an http or https URL".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and no password in it: say them in auth, where they are kept secret".to_owned());
    }
    Ok(())
}

/// Follows within the same place only: whoever is sent elsewhere would show secrets there, or could be sent to what only
/// this machine reaches.
fn follow(attempt: Attempt, networks: &AllowedNetworks) -> Action {
    let origin = attempt.previous().first().map(Url::origin);
    if let Err(refused) = networks.check(attempt.url()) {
        return attempt.error(refused);
    }
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(RefusedRedirect(format!("The source redirects more than {MAX_REDIRECTS} times")));
    }
    if origin.is_some_and(|origin| origin != attempt.url().origin()) {
        let place = attempt.url().origin().ascii_serialization();
        return attempt.error(RefusedRedirect(format!("The source redirects to {place}: use a URL of that place")));
    }
    attempt.follow()
}

/// Reads the body, if there is room for it.
async fn collect(response: &mut Response) -> Result<Vec<u8>, FetchError> {
    let too_long = || {
        FetchError::User(format!("A page of the source has more than {} MB: ask for smaller pages", MAX_BYTES >> 20))
    };
    if response.content_length().is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| explain(&error))? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Why there is no answer.
fn explain(error: &reqwest::Error) -> FetchError {
    let mut cause: &dyn Error = error;
    loop {
        if let Some(refused) = cause.downcast_ref::<RefusedAddress>() {
            return FetchError::User(refused.to_string());
        }
        if let Some(refused) = cause.downcast_ref::<RefusedRedirect>() {
            return FetchError::User(refused.to_string());
        }
        match cause.source() {
            Some(source) => cause = source,
            None => break,
        }
    }
    FetchError::transient(if error.is_timeout() {
        "The source does not answer in time".to_owned()
    } else if error.is_connect() {
        format!("The source cannot be reached: {cause}")
    } else {
        format!("The answer of the source broke off: {cause}")
    })
}

/// What it means that a source says no.
fn refused(status: StatusCode, body: &[u8], retry_after: Option<Duration>, secrets: &[&SecretText]) -> FetchError {
    let said = quote(body, secrets);
    match status {
        StatusCode::UNAUTHORIZED => {
            FetchError::Denied(format!("The source does not let the stream in ({status}): change its auth{said}"))
        }
        StatusCode::FORBIDDEN => {
            FetchError::User(format!("The source does not let the stream in ({status}): change its auth{said}"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            FetchError::Transient { reason: format!("The source answers {status}{said}"), retry_after }
        }
        _ if status.is_server_error() => {
            FetchError::Transient { reason: format!("The source answers {status}{said}"), retry_after }
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            FetchError::User(format!("The source has nothing at this URL ({status}): change it{said}"))
        }
        _ => FetchError::User(format!(
            "The source does not take the request ({status}): change the stream's source{said}"
        )),
    }
}

/// What a source says, in short, and without the secrets that it may repeat.
fn quote(body: &[u8], secrets: &[&SecretText]) -> String {
    let message = serde_json::from_slice::<Value>(body).ok().and_then(|body| {
        let named = ["/message", "/error_description", "/error/message", "/error", "/detail", "/title"];
        named.iter().find_map(|name| Some(body.pointer(name)?.as_str()?.to_owned()))
    });
    let Some(mut message) = message else { return String::new() };
    for secret in secrets.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty()) {
        message = message.replace(secret, "…");
    }
    let message: String = message.chars().filter(|character| !character.is_control()).take(MAX_QUOTED).collect();
    format!(". It says: {message}")
}

/// When to come again (RFC 9110, 10.2.3): a number of seconds, or a date. Nobody waits for longer than a month.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
    }
    let moment = httpdate::parse_http_date(text).ok()?;
    Some(moment.duration_since(now).unwrap_or_default().min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_says_when_to_come_again() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (text, expected) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("18446744073709551615", Some(2_592_000)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(2_592_000)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a value"))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn secrets_are_not_repeated() {
        let secret: SecretText = serde_json::from_str("\"hush\"").expect("a secret");
        let body = br#"{"error": {"message": "hush is no token,\nhush!"}}"#;
        let Err(FetchError::Denied(reason)) = Err::<(), _>(refused(StatusCode::UNAUTHORIZED, body, None, &[&secret]))
        else {
            panic!("somebody has to change something");
        };
        assert!(reason.ends_with("change its auth. It says: … is no token,…!"), "{reason}");
        assert_eq!(format!("{secret:?}"), "…");
    }
}
