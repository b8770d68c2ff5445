//! Tokens that were verified a moment ago: callers send the same one with each request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::VerifiedToken;
use super::keys::KeySet;

/// How many are remembered. To verify one costs some 100 µs, to find it a few. When there are more they are all
/// forgotten at once and verified again: nobody but the provider can fill this, and what to forget first would be more
/// code than it saves.
const MAX_TOKENS: usize = 1_024;

/// SHA-256 of a token: what is not kept cannot be read from memory.
type TokenDigest = [u8; 32];

/// A std mutex, since it is only held for looking something up.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    /// The keys under which they were verified. Under others none of them counts.
    keys: [u8; 32],
    tokens: HashMap<TokenDigest, VerifiedToken>,
}

impl VerifiedTokens {
    pub(super) fn get(&self, keys: &KeySet, digest: &TokenDigest, now: DateTime<Utc>) -> Option<VerifiedToken> {
        let remembered = self.lock();
        let token = (remembered.keys == keys.digest).then(|| remembered.tokens.get(digest))??;
        // After that it is looked at with all due care, and leeway.
        (now < token.expires_at).then(|| token.clone())
    }

    pub(super) fn insert(&self, keys: &KeySet, digest: TokenDigest, token: &VerifiedToken) {
        let mut remembered = self.lock();
        if remembered.keys != keys.digest || remembered.tokens.len() >= MAX_TOKENS {
            remembered.keys = keys.digest;
            remembered.tokens.clear();
        }
        remembered.tokens.insert(digest, token.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::auth::Scopes;

    fn keys(id: &str) -> KeySet {
        let number = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
        let document = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{number}","kid":"{id}"}}]}}"#);
        KeySet::parse(document.as_bytes()).expect("a set")
    }

    fn token(expires_at: DateTime<Utc>) -> VerifiedToken {
        VerifiedToken { subject: "alice".to_owned(), scopes: Scopes::NONE, expires_at }
    }

    #[test]
    fn a_token_is_remembered_until_it_expires() {
        let (verified, keys, now) = (VerifiedTokens::default(), keys("a"), Utc::now());
        let token = token(now + TimeDelta::seconds(1));
        verified.insert(&keys, [1; 32], &token);
        assert_eq!(verified.get(&keys, &[1; 32], now), Some(token));
        assert_eq!(verified.get(&keys, &[1; 32], now + TimeDelta::seconds(1)), None);
        assert_eq!(verified.get(&keys, &[2; 32], now), None);
    }

    #[test]
    fn a_token_is_forgotten_when_the_keys_change() {
        let (verified, now) = (VerifiedTokens::default(), Utc::now());
        let token = token(now + TimeDelta::seconds(1));
        verified.insert(&keys("a"), [1; 32], &token);
        assert_eq!(verified.get(&keys("b"), &[1; 32], now), None);
        verified.insert(&keys("b"), [2; 32], &token);
        assert_eq!(verified.get(&keys("b"), &[1; 32], now), None);
        assert_eq!(verified.get(&keys("b"), &[2; 32], now), Some(token));
    }

    #[test]
    fn memory_is_bounded() {
        let (verified, keys, now) = (VerifiedTokens::default(), keys("a"), Utc::now());
        let token = token(now + TimeDelta::seconds(1));
        for number in 0..=MAX_TOKENS as u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            verified.insert(&keys, digest, &token);
        }
        assert_eq!(verified.lock().tokens.len(), 1);
    }
}
