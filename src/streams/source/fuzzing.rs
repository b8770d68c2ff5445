//! What holds of what sources answer.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, LINK, RETRY_AFTER};
use serde_json::json;

use super::client::{Answer, Client, retry_after};
use super::http::{Http, HttpSource, next_link};
use super::network::AllowedNetworks;
use super::{Page, hubspot};
use crate::fuzzing::choice;
use crate::streams::json::parse;

static SOURCE: LazyLock<Http> = LazyLock::new(|| {
    let settings: HttpSource = serde_json::from_value(json!({
        "url": "https://api.example.com/v1/things?limit=2", "records": "/results", "key": "/id",
        "incremental": {"field": "/changed", "parameter": "since"},
    }))
    .expect("a source");
    let client = Client::new(AllowedNetworks::default(), Duration::from_secs(1)).expect("a client");
    Http::open(&settings, client, None, None)
});

/// When to come again, in two forms.
pub(in crate::streams) fn headers(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let headers = HeaderMap::from_iter([(RETRY_AFTER, value.clone())]);
    let pause = retry_after(&headers, SystemTime::UNIX_EPOCH);
    assert!(pause.is_none_or(|pause| pause <= Duration::from_secs(30 * 24 * 60 * 60)), "{pause:?}");
    let mut headers = HeaderMap::new();
    for name in ["x-hubspot-ratelimit-remaining", "x-hubspot-ratelimit-interval-milliseconds"] {
        headers.insert(name, value.clone());
    }
    // It says zero twice, or nothing that it could mean.
    assert_eq!(hubspot::pause(&headers), Duration::ZERO);
}

/// Links to the next page, in a header: they lead nowhere else.
pub(in crate::streams) fn links(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let answer = answer(HeaderMap::from_iter([(LINK, value)]), b"null").expect("an answer");
    let Some(link) = next_link(&answer) else { return };
    if let Ok(url) = SOURCE.join(&answer.url, &link) {
        assert_eq!(url.origin(), answer.url.origin());
        assert!(["http", "https"].contains(&url.scheme()));
    }
}

/// Pages of records, of any source and of HubSpot.
pub(in crate::streams) fn pages(bytes: &[u8]) {
    let Some((kind, text)) = choice(bytes) else { return };
    if kind % 2 == 0 {
        let Some(answer) = answer(HeaderMap::new(), text) else { return };
        let found = answer.body.pointer("/results").and_then(|found| found.as_array().cloned());
        match SOURCE.read(answer, None) {
            Ok(Page { records, .. }) => {
                let found = found.expect("there is an array");
                assert!(records.into_iter().map(|fetched| fetched.record).eq(found));
            }
            Err(_) => assert!(found.is_none(), "there is an array of records"),
        }
    } else if let Ok(body) = parse(text) {
        drop((hubspot::key(&body), hubspot::millis(&body)));
        drop(serde_json::from_value::<hubspot::Listed>(body));
    }
}

fn answer(headers: HeaderMap, body: &[u8]) -> Option<Answer> {
    let url = Url::parse("https://api.example.com/v1/things").expect("a URL");
    Some(Answer { url, headers, body: parse(body).ok()?, bytes: 0 })
}
