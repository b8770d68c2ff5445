//! What a token must say, and what is taken from it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::{TokenError, VerifiedToken};
use crate::auth::Scopes;

/// The provider's clock and ours may differ by so much. Clocks that are set by network differ by less than a second; a
/// token that has expired works for this much longer.
const LEEWAY: TimeDelta = TimeDelta::seconds(30);

/// What the claims of a token are held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expectations {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) scopes: ScopesClaim,
}

impl Expectations {
    /// What the token grants, if it is for us, and now (RFC 7519, 4.1).
    pub(super) fn check(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<VerifiedToken, TokenError> {
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::MissingClaim("iss"))?;
        if issuer != self.issuer {
            return Err(TokenError::WrongIssuer);
        }
        let is_for_us = match claims.get("aud") {
            Some(Value::String(audience)) => *audience == self.audience,
            Some(Value::Array(audiences)) => audiences.iter().any(|audience| *audience == *self.audience),
            _ => return Err(TokenError::MissingClaim("aud")),
        };
        if !is_for_us {
            return Err(TokenError::WrongAudience);
        }
        let expires_at = claims.get("exp").and_then(moment).ok_or(TokenError::MissingClaim("exp"))?;
        if expires_at <= now - LEEWAY {
            return Err(TokenError::Expired { at: expires_at });
        }
        if let Some(from) = claims.get("nbf")
            && moment(from).ok_or(TokenError::MissingClaim("nbf"))? > now + LEEWAY
        {
            return Err(TokenError::NotYetValid);
        }
        // It is written to logs and to Postgres, whose texts have no NUL.
        let is_a_name = |subject: &&str| !subject.trim().is_empty() && !subject.contains(char::is_control);
        let subject = claims.get("sub").and_then(Value::as_str).filter(is_a_name);
        let subject = subject.ok_or(TokenError::MissingClaim("sub"))?.to_owned();
        Ok(VerifiedToken { subject, scopes: self.scopes.of(claims), expires_at })
    }
}

/// A moment in seconds since 1970 (RFC 7519, NumericDate), which may have fractions.
fn moment(value: &Value) -> Option<DateTime<Utc>> {
    match value.as_i64() {
        Some(seconds) => DateTime::from_timestamp(seconds, 0),
        // Out of range is out of range of milliseconds too, since the conversion saturates.
        None => DateTime::from_timestamp_millis((value.as_f64()? * 1_000.0) as i64),
    }
}

/// Where in a token the scopes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScopesClaim(String);

impl ScopesClaim {
    pub(super) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// The scopes that the token grants; none if it does not say.
    fn of(&self, claims: &Map<String, Value>) -> Scopes {
        match self.find(claims) {
            Some(Value::String(names)) => Scopes::known_of(names.split_whitespace()),
            Some(Value::Array(names)) => Scopes::known_of(names.iter().filter_map(Value::as_str)),
            _ => Scopes::NONE,
        }
    }

    /// A claim of that very name comes first: some providers have URLs for names, which have dots themselves.
    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        claims.get(&self.0).or_else(|| {
            let mut names = self.0.split('.');
            let first = claims.get(names.next()?)?;
            names.try_fold(first, |value, name| value.as_object()?.get(name))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::Scope;

    const NOW: i64 = 1_800_000_000;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).expect("a moment")
    }

    fn expectations(scopes: &str) -> Expectations {
        let (issuer, audience) = ("https://id.example".to_owned(), "newcycle".to_owned());
        Expectations { issuer, audience, scopes: ScopesClaim::new(scopes) }
    }

    /// The claims of a good token but for these; null takes one away.
    fn claims(changes: &Value) -> Map<String, Value> {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "newcycle", "sub": "alice", "exp": NOW + 60, "scope": "ledger:read",
        });
        let claims = claims.as_object_mut().expect("an object");
        for (name, value) in changes.as_object().expect("an object") {
            match value {
                Value::Null => claims.remove(name),
                value => claims.insert(name.clone(), value.clone()),
            };
        }
        claims.clone()
    }

    fn check(changes: &Value) -> Result<VerifiedToken, TokenError> {
        expectations("scope").check(&claims(changes), now())
    }

    fn scopes(claim: &str, changes: &Value) -> Vec<&'static str> {
        expectations(claim).check(&claims(changes), now()).expect("a good token").scopes.names()
    }

    #[test]
    fn a_good_token_says_who_what_and_how_long() {
        let expires_at = now() + TimeDelta::seconds(60);
        let scopes = Scopes::NONE.with(Scope::LedgerRead);
        assert_eq!(check(&json!({})), Ok(VerifiedToken { subject: "alice".to_owned(), scopes, expires_at }));
    }

    #[test]
    fn claims_that_are_needed_have_to_be_there() {
        for name in ["iss", "aud", "exp", "sub"] {
            assert_eq!(check(&json!({ name: null })), Err(TokenError::MissingClaim(name)));
            assert_eq!(check(&json!({ name: {} })), Err(TokenError::MissingClaim(name)));
            assert_eq!(check(&json!({ name: true })), Err(TokenError::MissingClaim(name)));
        }
        for subject in ["", "  ", "a\0b", "a\nb"] {
            assert_eq!(check(&json!({ "sub": subject })), Err(TokenError::MissingClaim("sub")));
        }
    }

    #[test]
    fn the_issuer_is_compared_letter_by_letter() {
        for issuer in ["https://id.example/", "https://ID.example", "https://id.example.org", ""] {
            assert_eq!(check(&json!({ "iss": issuer })), Err(TokenError::WrongIssuer));
        }
        // An issuer is one: RFC 7519 has no lists of them.
        assert_eq!(check(&json!({ "iss": ["https://id.example"] })), Err(TokenError::MissingClaim("iss")));
    }

    #[test]
    fn the_audience_is_one_or_one_of_several() {
        assert!(check(&json!({ "aud": ["account", "newcycle"] })).is_ok());
        for audience in [json!("account"), json!([]), json!(["account"]), json!([["newcycle"]]), json!("newcycle2")] {
            assert_eq!(check(&json!({ "aud": audience })), Err(TokenError::WrongAudience));
        }
    }

    #[test]
    fn a_token_ends_half_a_minute_after_its_time() {
        assert!(check(&json!({ "exp": NOW - 29 })).is_ok());
        assert!(check(&json!({ "exp": NOW as f64 - 29.5 })).is_ok());
        let at = now() - TimeDelta::seconds(30);
        assert_eq!(check(&json!({ "exp": NOW - 30 })), Err(TokenError::Expired { at }));
    }

    #[test]
    fn a_token_begins_half_a_minute_before_its_time() {
        assert!(check(&json!({ "nbf": NOW + 30 })).is_ok());
        assert_eq!(check(&json!({ "nbf": NOW + 31 })), Err(TokenError::NotYetValid));
        assert_eq!(check(&json!({ "nbf": "soon" })), Err(TokenError::MissingClaim("nbf")));
    }

    #[test]
    fn times_that_cannot_be_are_malformed() {
        for time in [json!(i64::MAX), json!(u64::MAX), json!(1e300), json!(-1e300), json!("1800000060"), json!([NOW])] {
            assert_eq!(check(&json!({ "exp": time })), Err(TokenError::MissingClaim("exp")), "{time}");
        }
        assert!(matches!(check(&json!({ "exp": -1 })), Err(TokenError::Expired { .. })));
    }

    #[test]
    fn scopes_are_a_list_or_separated_by_spaces() {
        let expected = ["ledger:read", "exports"];
        assert_eq!(scopes("scope", &json!({ "scope": "openid ledger:read exports" })), expected);
        assert_eq!(scopes("scope", &json!({ "scope": ["exports", "openid", 7, "ledger:read"] })), expected);
        assert_eq!(scopes("realm_access.roles", &json!({ "realm_access": { "roles": expected } })), expected);
    }

    #[test]
    fn a_claim_may_have_dots_in_its_name() {
        let name = "https://newcycle.example/scopes";
        assert_eq!(scopes(name, &json!({ name: "exports" })), ["exports"]);
    }

    #[test]
    fn what_is_not_there_grants_nothing() {
        for changes in [json!({ "scope": null }), json!({ "scope": 7 }), json!({ "scope": { "admin": true } })] {
            assert!(scopes("scope", &changes).is_empty());
        }
        for path in ["scope.", ".scope", "a.b", "iss.b", "", "."] {
            assert!(scopes(path, &json!({ "a": { "c": "admin" } })).is_empty(), "{path}");
        }
    }
}
