//! What holds of tokens, keys and sessions that somebody shows.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::claims::{Expectations, ScopesClaim};
use super::keys::KeySet;
use super::{SignedToken, TokenError};
use crate::auth::{Secret, key_id};
use crate::fuzzing::choice_and_text;

/// A provider's keys. Nobody has what belongs to them, so that nothing is signed with them.
static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let rsa = json!({"kty": "RSA", "kid": "r", "n": URL_SAFE_NO_PAD.encode([0xd5; 256]), "e": "AQAB"});
    // The generator of the curve (SEC 2, 2.4.2): a point that is on it.
    let ec = json!({
        "kty": "EC", "kid": "e", "crv": "P-256",
        "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
    });
    KeySet::parse(json!({"keys": [rsa, ec]}).to_string().as_bytes()).expect("they are keys")
});

/// Tokens, the claims of those that would be signed, sets of keys; keys and sessions of our own.
pub fn tokens(bytes: &[u8]) {
    let Some((choice, text)) = choice_and_text(bytes) else { return };
    match choice % 4 {
        0 => signed(text),
        1 => claims(text),
        2 => {
            if let Ok(keys) = KeySet::parse(text.as_bytes()) {
                assert!(keys.len() > 0);
            }
        }
        _ => own(text),
    }
}

fn signed(text: &str) {
    let Ok(token) = SignedToken::parse(text) else { return };
    assert!(token.verify(&KEYS).is_err(), "somebody signed with a key that nobody has");
}

fn claims(text: &str) {
    let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else { return };
    let name = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or("x").to_owned();
    let expectations =
        Expectations { issuer: name("iss"), audience: name("aud"), scopes: ScopesClaim::new("realm.roles") };
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    match expectations.check(&claims, now) {
        Ok(verified) => {
            assert_eq!(claims["sub"], *verified.subject);
            assert!(!verified.subject.contains(char::is_control) && !verified.subject.trim().is_empty());
            assert!(verified.expires_at > now - chrono::TimeDelta::minutes(1));
        }
        Err(error) => assert!(!matches!(error, TokenError::BadSignature) && !error.public_description().is_empty()),
    }
}

fn own(text: &str) {
    if let Some(secret) = Secret::of_key(text) {
        assert!(Secret::looks_like_a_key(text));
        assert_eq!((secret.key_text().as_str(), key_id(text)), (text, secret.id()));
    }
    if let Some(secret) = Secret::of_session(text) {
        assert_eq!(secret.session_text(), text);
        assert!(!format!("{secret:?}").contains(&text[13..]), "a secret is shown");
    }
    assert!(text.contains(key_id(text)));
}
