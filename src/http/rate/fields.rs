//! What clients read about their limits: the fields of draft-ietf-httpapi-ratelimit-headers-10, and `Retry-After`.
//!
//! `RateLimit-Policy` says what is allowed: `q` requests in `w` seconds. `RateLimit` says what is left: `r` requests
//! now, and `t`, the seconds until there is more than that; not until all is there again, which the draft says since
//! its tenth version for rates like ours that are filled in steadily. As it is rounded up, and taken from an empty
//! start where the library does not tell, it may be less in truth. After a refusal, `Retry-After` is the greatest `t`
//! of a policy that refused.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::quota::Rate;
use super::{ADDRESS, KEY, Verdict};

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Enough for two policies with four digits each; more digits make it grow.
const TYPICAL_BYTES: usize = 48;

/// The values of `RateLimit-Policy`, which are the same for each response.
#[derive(Debug)]
pub(super) struct Policies {
    key: Option<HeaderValue>,
    address: Option<HeaderValue>,
    both: Option<HeaderValue>,
}

impl Policies {
    pub(super) fn new(key: Option<Rate>, address: Option<Rate>) -> Self {
        let text = |name, rate: Rate| format!("\"{name}\";q={};w={}", rate.requests, rate.window.seconds());
        let key = key.map(|rate| text(KEY, rate));
        let address = address.map(|rate| text(ADDRESS, rate));
        let both = key.as_ref().zip(address.as_ref()).map(|(key, address)| format!("{key}, {address}"));
        // Numbers and names always make a value.
        let value = |text: Option<String>| HeaderValue::try_from(text?).ok();
        Self { key: value(key), address: value(address), both: value(both) }
    }

    /// Sets the fields for the policies that were asked. No policy, no fields.
    pub(super) fn tell(&self, key: Option<Verdict>, address: Option<Verdict>, headers: &mut HeaderMap) {
        let policy = match (key, address) {
            (None, None) => return,
            (Some(_), None) => &self.key,
            (None, Some(_)) => &self.address,
            (Some(_), Some(_)) => &self.both,
        };
        if let Some(policy) = policy {
            headers.insert(RATE_LIMIT_POLICY, policy.clone());
        }
        let mut text = Vec::with_capacity(TYPICAL_BYTES);
        for (name, verdict) in [(KEY, key), (ADDRESS, address)] {
            let Some(verdict) = verdict else { continue };
            text.extend_from_slice(if text.is_empty() { b"\"" } else { b", \"" });
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b"\";r=");
            push(&mut text, verdict.remaining.into());
            text.extend_from_slice(b";t=");
            push(&mut text, verdict.more_within);
        }
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(RATE_LIMIT, value);
        }
        let refusals = [key, address].into_iter().flatten().filter(|verdict| !verdict.is_allowed);
        if let Some(seconds) = refusals.map(|verdict| verdict.more_within).max() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }
}

/// Appends the number in decimal digits, without the formatting machinery, which takes several times as long.
fn push(text: &mut Vec<u8>, number: u64) {
    if number >= 10 {
        push(text, number / 10);
    }
    text.push(b'0' + (number % 10) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> Policies {
        Policies::new("100/min".parse().ok(), "7/s".parse().ok())
    }

    fn allowed(remaining: u32, more_within: u64) -> Option<Verdict> {
        Some(Verdict { is_allowed: true, remaining, more_within })
    }

    fn refused(more_within: u64) -> Option<Verdict> {
        Some(Verdict { is_allowed: false, remaining: 0, more_within })
    }

    fn told(key: Option<Verdict>, address: Option<Verdict>) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        policies().tell(key, address, &mut headers);
        let text = |value: &HeaderValue| value.to_str().expect("ASCII").to_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn expected(policy: &str, limit: &str, retry: Option<&str>) -> Vec<(String, String)> {
        let fields = [("ratelimit-policy", Some(policy)), ("ratelimit", Some(limit)), ("retry-after", retry)];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
    }

    #[test]
    fn a_request_without_a_limit_hears_nothing() {
        assert_eq!(told(None, None), []);
    }

    #[test]
    fn one_policy_is_told() {
        assert_eq!(told(allowed(12, 1), None), expected(r#""key";q=100;w=60"#, r#""key";r=12;t=1"#, None));
        assert_eq!(told(None, allowed(6, 1)), expected(r#""address";q=7;w=1"#, r#""address";r=6;t=1"#, None));
    }

    #[test]
    fn two_policies_are_told_together() {
        let policy = r#""key";q=100;w=60, "address";q=7;w=1"#;
        assert_eq!(
            told(allowed(99, 1), allowed(0, 10)),
            expected(policy, r#""key";r=99;t=1, "address";r=0;t=10"#, None)
        );
    }

    #[test]
    fn a_refusal_says_when_to_come_again() {
        let policy = r#""key";q=100;w=60, "address";q=7;w=1"#;
        assert_eq!(
            told(refused(17), allowed(3, 600)),
            expected(policy, r#""key";r=0;t=17, "address";r=3;t=600"#, Some("17"))
        );
        assert_eq!(
            told(refused(17), refused(3600)),
            expected(policy, r#""key";r=0;t=17, "address";r=0;t=3600"#, Some("3600"))
        );
    }

    #[test]
    fn what_was_there_before_is_replaced() {
        let mut headers = HeaderMap::new();
        policies().tell(refused(17), None, &mut headers);
        policies().tell(refused(18), None, &mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers[header::RETRY_AFTER], "18");
    }

    proptest::proptest! {
        #[test]
        fn numbers_are_written_as_ever(number: u64) {
            let mut text = Vec::new();
            push(&mut text, number);
            proptest::prop_assert_eq!(text, number.to_string().into_bytes());
        }
    }
}
