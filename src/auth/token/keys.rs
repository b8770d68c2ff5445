//! The provider's keys, and what each may be used for.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::TokenError;
use super::source::KeySetError;

/// All that tokens may be signed with. None has a secret that is known to those who verify: otherwise the public key
/// itself could be used as the secret of a forged token.
const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// A token without a key id is tried with every key, if there are no more than this: one key that is used and its
/// predecessor and successor, of two kinds. With more, forged tokens would cost several times what honest ones do.
const MAX_KEYS_WITHOUT_ID: usize = 6;
/// Fewer than 2,048 bits are no protection any more.
const MIN_RSA_BYTES: usize = 2_048 / 8;

/// An algorithm that tokens may be signed with, by its exact name.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    let algorithm = name.parse().ok()?;
    [RSA, P256, P384, ED25519].into_iter().flatten().find(|allowed| **allowed == algorithm).copied()
}

/// The keys of a document that can be used here.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Of the document, so that it can be told whether anything changed.
    pub(super) digest: [u8; 32],
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A document as RFC 7517, 5 has it. Keys are read one by one: those that make no sense to us are left out.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JWK set. One without any key that can be used is an error: rather than with it we go on with what we
    /// had.
    pub(super) fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let digest = Sha256::digest(document).into();
        let document: Document = serde_json::from_slice(document).map_err(KeySetError::NotASet)?;
        let all = document.keys.len();
        let keys: Vec<_> = document.keys.into_iter().filter_map(Key::parse).collect();
        if keys.is_empty() { Err(KeySetError::NoUsableKey { all }) } else { Ok(Self { keys, digest }) }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that a token may have been signed with, of which there is at least one.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&DecodingKey>, TokenError> {
        if id.is_none() && self.keys.len() > MAX_KEYS_WITHOUT_ID {
            return Err(TokenError::UnknownKey);
        }
        // Keys of different kinds may share an id (RFC 7517, 4.5).
        let named: Vec<_> = self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).collect();
        if named.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        let fitting = named.into_iter().filter(|key| key.algorithms.contains(&algorithm));
        let candidates: Vec<_> = fitting.map(|key| &key.key).collect();
        if candidates.is_empty() { Err(TokenError::AlgorithmNotAllowed) } else { Ok(candidates) }
    }
}

impl Key {
    fn parse(value: Value) -> Option<Self> {
        let outcome = serde_json::from_value::<Jwk>(value).map_err(|_| "it cannot be read").and_then(Self::new);
        outcome.inspect_err(|reason| tracing::debug!(reason, "a key of the identity provider is not used")).ok()
    }

    fn new(jwk: Jwk) -> Result<Self, &'static str> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("it is not for signatures");
        }
        if jwk.common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return Err("it is not for verifying");
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED25519,
            _ => return Err("it is of a kind that is not used here"),
        }
        .to_vec();
        if let Some(only) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| only == (*algorithm).into());
            if algorithms.is_empty() {
                return Err("it is for an algorithm that is not used here");
            }
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| "its numbers cannot be read")?;
        if let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
            && n.len() < MIN_RSA_BYTES
        {
            return Err("it has fewer than 2048 bits");
        }
        Ok(Self { id: jwk.common.key_id, algorithms, key })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn rsa(more: &Value) -> Value {
        with(json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xd5; 256]), "e": "AQAB" }), more)
    }

    fn p256(more: &Value) -> Value {
        let number = URL_SAFE_NO_PAD.encode([7; 32]);
        with(json!({ "kty": "EC", "crv": "P-256", "x": number, "y": number }), more)
    }

    fn with(mut key: Value, more: &Value) -> Value {
        let more = more.as_object().expect("an object").clone();
        key.as_object_mut().expect("an object").extend(more);
        key
    }

    fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    /// What a key can be used for.
    fn uses(key: Value) -> Vec<Algorithm> {
        set(&[key]).map_or_else(|_| Vec::new(), |mut set| set.keys.remove(0).algorithms)
    }

    #[test]
    fn a_key_is_for_the_algorithms_of_its_kind() {
        let number = URL_SAFE_NO_PAD.encode([7; 48]);
        assert_eq!(uses(rsa(&json!({}))), RSA);
        assert_eq!(uses(p256(&json!({}))), P256);
        assert_eq!(uses(p256(&json!({ "crv": "P-384", "x": number, "y": number }))), P384);
        let number = URL_SAFE_NO_PAD.encode([7; 32]);
        assert_eq!(uses(json!({ "kty": "OKP", "crv": "Ed25519", "x": number })), ED25519);
    }

    #[test]
    fn a_key_that_names_its_algorithm_is_for_no_other() {
        assert_eq!(uses(rsa(&json!({ "alg": "PS384" }))), [Algorithm::PS384]);
        for alg in ["HS256", "ES256", "RSA-OAEP", "none", ""] {
            assert_eq!(uses(rsa(&json!({ "alg": alg }))), [], "{alg}");
        }
    }

    #[test]
    fn keys_for_something_else_are_left_out() {
        let number = URL_SAFE_NO_PAD.encode([7; 32]);
        for key in [
            rsa(&json!({ "use": "enc" })),
            rsa(&json!({ "use": "SIG" })),
            rsa(&json!({ "key_ops": ["encrypt"] })),
            rsa(&json!({ "n": URL_SAFE_NO_PAD.encode([0xd5; 128]) })),
            rsa(&json!({ "n": "!" })),
            p256(&json!({ "crv": "Ed25519" })),
            p256(&json!({ "crv": "P-521" })),
            p256(&json!({ "crv": "secp256k1" })),
            json!({ "kty": "OKP", "crv": "P-256", "x": number }),
            json!({ "kty": "OKP", "crv": "X25519", "x": number }),
            json!({ "kty": "oct", "k": number }),
            json!({ "kty": "oct", "k": number, "alg": "RS256" }),
            json!({ "kty": "AKP" }),
            json!(7),
        ] {
            assert_eq!(uses(key.clone()), [], "{key}");
        }
        assert_eq!(uses(rsa(&json!({ "use": "sig", "key_ops": ["verify"] }))), RSA);
    }

    #[test]
    fn keys_that_make_no_sense_do_not_take_the_others_with_them() {
        let set = set(&[json!({ "kty": 1 }), rsa(&json!({ "kid": "a" })), json!(null)]).expect("a set");
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_set_without_a_key_that_can_be_used_is_none() {
        assert!(matches!(set(&[json!({ "kty": "oct", "k": "AAAA" })]), Err(KeySetError::NoUsableKey { all: 1 })));
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(matches!(KeySet::parse(document.as_bytes()), Err(KeySetError::NotASet(_))), "{document}");
        }
    }

    #[test]
    fn the_id_selects_the_key_and_the_key_its_algorithm() {
        let set = set(&[rsa(&json!({ "kid": "a" })), p256(&json!({ "kid": "b" })), p256(&json!({}))]).expect("a set");
        assert_eq!(set.candidates(Some("a"), Algorithm::RS256).map(|keys| keys.len()), Ok(1));
        assert_eq!(set.candidates(Some("a"), Algorithm::ES256).err(), Some(TokenError::AlgorithmNotAllowed));
        assert_eq!(set.candidates(Some("c"), Algorithm::ES256).err(), Some(TokenError::UnknownKey));
        assert_eq!(set.candidates(None, Algorithm::ES256).map(|keys| keys.len()), Ok(2));
        assert_eq!(set.candidates(None, Algorithm::EdDSA).err(), Some(TokenError::AlgorithmNotAllowed));
    }

    #[test]
    fn keys_of_different_kinds_may_share_an_id() {
        let set = set(&[rsa(&json!({ "kid": "a" })), p256(&json!({ "kid": "a" }))]).expect("a set");
        for algorithm in [Algorithm::RS256, Algorithm::ES256] {
            assert_eq!(set.candidates(Some("a"), algorithm).map(|keys| keys.len()), Ok(1));
        }
    }

    #[test]
    fn a_token_without_an_id_is_not_tried_with_many_keys() {
        let many = vec![p256(&json!({ "kid": "a" })); MAX_KEYS_WITHOUT_ID + 1];
        assert_eq!(set(&many).expect("a set").candidates(None, Algorithm::ES256).err(), Some(TokenError::UnknownKey));
        assert!(set(&many[1..]).expect("a set").candidates(None, Algorithm::ES256).is_ok());
    }
}
