//! Tokens (JWTs, RFC 7519) of the user's own identity provider.
//!
//! A token says under which of the provider's keys it was signed. [`store`] has those keys from a URL or a file and
//! keeps them fresh, [`keys`] says which of them may be used with which algorithm, [`claims`] what a token must say.
//!
//! **Invariant:** what a token says about itself decides nothing but which of the provider's own keys is tried. Keys
//! that a token brings along or points at (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.
//!
//! **Invariant:** whoever cannot sign learns nothing: until the signature is verified, all that is wrong with a token
//! is one and the same to the caller. The log has the reason, at level debug.

mod claims;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keys;
mod settings;
mod source;
mod store;
mod verified;

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::Scopes;
use claims::Expectations;
use keys::KeySet;
pub use settings::{TokenSettings, TokenSettingsError};
use store::KeyStore;
use verified::VerifiedTokens;

/// A longer token is refused unseen. Those of the talkative providers, with dozens of groups, have 2 to 4 KiB, and many
/// proxies take no longer header lines than this.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// What a caller hears whose token was not signed by the provider, whatever else is wrong with it.
const NOT_VALID: &str = "This is not a valid token";

/// What a token said whose signature and claims were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Whom the provider means, in its own words.
    pub subject: String,
    /// What they may do. The names of scopes that are not ours mean something elsewhere.
    pub scopes: Scopes,
    /// When it is over.
    pub expires_at: DateTime<Utc>,
}

/// Why a token is not accepted. `Display` is for the log; callers get [`TokenError::public_description`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no signed JWT.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// Its algorithm is none that is accepted, or not that of its key.
    #[error("its algorithm cannot be used with its key")]
    AlgorithmNotAllowed,
    /// It names a key that the provider does not have.
    #[error("its key is not in the provider's set")]
    UnknownKey,
    /// It was not signed with that key.
    #[error("its signature is wrong")]
    BadSignature,
    /// Its time is over.
    #[error("it expired at {at}")]
    Expired {
        /// When.
        at: DateTime<Utc>,
    },
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Somebody else issued it.
    #[error("it has another issuer")]
    WrongIssuer,
    /// It is for somebody else.
    #[error("it has another audience")]
    WrongAudience,
    /// It does not say this, or not in the way that RFC 7519 wants it said.
    #[error("its claim {0} is missing or malformed")]
    MissingClaim(&'static str),
    /// The provider's keys cannot be had, so that nobody can say.
    #[error("the identity provider's keys are not there")]
    Unavailable,
}

impl TokenError {
    /// What the caller may be told. Only the provider can have signed tokens about which this says more than that they
    /// are not valid. ASCII without quotes, so that it fits into `WWW-Authenticate` as it is.
    pub fn public_description(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Malformed(_) | Self::AlgorithmNotAllowed | Self::UnknownKey | Self::BadSignature => NOT_VALID,
            Self::Expired { at } => return format!("This token expired at {}", at.format("%FT%TZ")).into(),
            Self::NotYetValid => "This token is not valid yet",
            Self::WrongIssuer => "This token was issued by somebody else than the identity provider of this server",
            Self::WrongAudience => "This token is for another service",
            Self::MissingClaim(name) => return format!("This token has no {name}, or none that can be read").into(),
            Self::Unavailable => "Tokens cannot be verified at the moment",
        })
    }
}

/// Says whose tokens are whose. Cheap to clone; all clones share the keys and what was verified.
#[derive(Clone, Debug)]
pub struct TokenVerifier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    expectations: Expectations,
    store: KeyStore,
    verified: VerifiedTokens,
}

impl TokenVerifier {
    /// A verifier if the settings name an identity provider. Nothing is read or fetched yet: [`TokenVerifier::run`]
    /// does.
    pub fn new(settings: &TokenSettings) -> Result<Option<Self>, TokenSettingsError> {
        let provider = settings.provider()?;
        Ok(provider.map(|(source, expectations)| {
            let store = KeyStore::new(source);
            Self(Arc::new(Shared { expectations, store, verified: VerifiedTokens::default() }))
        }))
    }

    /// Fetches the provider's keys once, to see whether that goes well: how many can be used.
    pub(crate) async fn count_keys(&self) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let document = self.0.store.source().load().await?;
        Ok(KeySet::parse(&document)?.len())
    }

    /// Fetches the provider's keys at once, every few minutes, and when a token names one that is not there. Without
    /// this running, all tokens are [`TokenError::Unavailable`].
    pub async fn run(self, stop: CancellationToken) {
        self.0.store.run(stop).await;
    }

    /// What the token says, if the provider signed it for us and its time is now.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let outcome = self.judge(token).await;
        if let Err(reason) = &outcome {
            tracing::debug!(%reason, "a token was refused");
        }
        outcome
    }

    async fn judge(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let shared = &*self.0;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("it is too long"));
        }
        let keys = shared.store.current().await.ok_or(TokenError::Unavailable)?;
        let digest = Sha256::digest(token).into();
        if let Some(verified) = shared.verified.get(&keys, &digest, Utc::now()) {
            return Ok(verified);
        }
        let signed = SignedToken::parse(token)?;
        let (keys, payload) = match signed.verify(&keys) {
            Ok(payload) => (keys, payload),
            Err(error) if signed.may_have_a_newer_key(&error) => {
                let newer = shared.store.newer_than(&keys).await.ok_or(error)?;
                let payload = signed.verify(&newer)?;
                (newer, payload)
            }
            Err(error) => return Err(error),
        };
        let verified = shared.expectations.check(&payload, Utc::now())?;
        shared.verified.insert(&keys, digest, &verified);
        Ok(verified)
    }
}

/// A token that looks like one, of which nothing is believed yet.
struct SignedToken<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> SignedToken<'a> {
    /// Takes a token apart (RFC 7515, 3.1). jsonwebtoken could do so too, but would read the keys in a header before
    /// anyone can say that they do not matter.
    fn parse(token: &'a str) -> Result<Self, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("it has no parts"))?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed("it has two parts"))?;
        if payload.contains('.') {
            return Err(TokenError::Malformed("it has more than three parts"));
        }
        let header = object(header).ok_or(TokenError::Malformed("its header is no JSON object"))?;
        // Whoever does not understand an extension that is critical has to refuse the token (RFC 7515, 4.1.11), and
        // none is understood here.
        if header.contains_key("crit") {
            return Err(TokenError::Malformed("it has critical extensions"));
        }
        let algorithm =
            header.get("alg").and_then(Value::as_str).ok_or(TokenError::Malformed("it has no algorithm"))?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(TokenError::Malformed("its key id is no string")),
        };
        let algorithm = keys::algorithm(algorithm).ok_or(TokenError::AlgorithmNotAllowed)?;
        Ok(Self { algorithm, key_id, message, payload, signature })
    }

    /// What it says, now that it is believed.
    fn verify(&self, keys: &KeySet) -> Result<Map<String, Value>, TokenError> {
        let candidates = keys.candidates(self.key_id.as_deref(), self.algorithm)?;
        let is_signed_with = |key| {
            jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm).unwrap_or(false)
        };
        if !candidates.into_iter().any(is_signed_with) {
            return Err(TokenError::BadSignature);
        }
        object(self.payload).ok_or(TokenError::Malformed("its payload is no JSON object"))
    }

    /// Whether the provider may have begun to use another key: one that is named and not known, or, since keys can be
    /// used without names, any.
    fn may_have_a_newer_key(&self, error: &TokenError) -> bool {
        match error {
            TokenError::UnknownKey => true,
            TokenError::BadSignature => self.key_id.is_none(),
            _ => false,
        }
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn refusal(header: &str) -> TokenError {
        let token = format!("{}.{}.c2ln", encoded(header), encoded("{}"));
        SignedToken::parse(&token).err().expect("a refusal")
    }

    #[test]
    fn what_is_wrong_before_the_signature_is_verified_is_all_the_same_to_the_caller() {
        for error in [
            TokenError::Malformed("it has no parts"),
            TokenError::AlgorithmNotAllowed,
            TokenError::UnknownKey,
            TokenError::BadSignature,
        ] {
            assert_eq!(error.public_description(), "This is not a valid token");
        }
    }

    #[test]
    fn what_is_wrong_afterwards_is_said() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("a moment");
        assert_eq!(TokenError::Expired { at }.public_description(), "This token expired at 2023-11-14T22:13:20Z");
        assert_eq!(
            TokenError::MissingClaim("sub").public_description(),
            "This token has no sub, or none that can be read"
        );
        assert_eq!(TokenError::WrongAudience.public_description(), "This token is for another service");
    }

    #[test]
    fn descriptions_fit_into_a_header() {
        let at = DateTime::UNIX_EPOCH;
        for error in [
            TokenError::Malformed("it has no parts"),
            TokenError::Expired { at },
            TokenError::NotYetValid,
            TokenError::WrongIssuer,
            TokenError::WrongAudience,
            TokenError::MissingClaim("sub"),
            TokenError::Unavailable,
        ] {
            let text = error.public_description();
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'), "{text}");
        }
    }

    #[test]
    fn tokens_have_three_parts() {
        for token in ["", ".", "a", "a.b", "a.b.c.d", "a.b.c.d.e"] {
            assert!(matches!(SignedToken::parse(token), Err(TokenError::Malformed(_))), "{token:?}");
        }
    }

    #[test]
    fn critical_extensions_are_refused_whatever_they_are() {
        for crit in ["null", "[]", r#"["exp"]"#, r#"["b64"]"#, "1"] {
            let header = format!(r#"{{"alg":"ES256","crit":{crit}}}"#);
            assert_eq!(refusal(&header), TokenError::Malformed("it has critical extensions"));
        }
    }

    #[test]
    fn no_algorithm_is_none_however_it_is_spelt() {
        for algorithm in ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "es256", "ES256 ", "ES512"] {
            assert_eq!(
                refusal(&format!(r#"{{"alg":"{algorithm}"}}"#)),
                TokenError::AlgorithmNotAllowed,
                "{algorithm:?}"
            );
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_malformed() {
        for header in ["", "null", "[]", "{}", r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"alg":"ES256","kid":7}"#]
        {
            assert!(matches!(refusal(header), TokenError::Malformed(_)), "{header}");
        }
    }
}
