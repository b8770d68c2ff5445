//! Secrets of keys and sessions: made, shown once, and known by their hash from then on.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Letters and digits that are not taken for one another, 32 of them: each stands for five random bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 60 bits: ids are not secret, and there will be thousands of them at most.
const ID_LENGTH: usize = 12;
/// 260 bits: nobody guesses these, however often they may try.
const SECRET_LENGTH: usize = 52;
/// What keys begin with, so that people and programs that look for leaked secrets know them.
const KEY_PREFIX: &str = "nck_";

/// A key as it is given out: `nck_<id>_<secret>`. Sessions are the same without the prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    id: String,
    secret: String,
}

/// What is kept of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl Secret {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Ok(Self { id: random_text(ID_LENGTH)?, secret: random_text(SECRET_LENGTH)? })
    }

    /// Another secret for the same id.
    pub fn regenerate(id: &str) -> Result<Self, getrandom::Error> {
        Ok(Self { id: id.to_owned(), secret: random_text(SECRET_LENGTH)? })
    }

    /// Whether a text wants to be a key.
    pub fn looks_like_a_key(text: &str) -> bool {
        text.starts_with(KEY_PREFIX)
    }

    /// Reads a key.
    pub fn of_key(text: &str) -> Option<Self> {
        Self::of_session(text.strip_prefix(KEY_PREFIX)?)
    }

    /// Reads a session's secret.
    pub fn of_session(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('_')?;
        let is_whole = is_text(id, ID_LENGTH) && is_text(secret, SECRET_LENGTH);
        is_whole.then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// Which key or session it is of.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(&self.secret).into())
    }

    /// The text to hand to whoever shall have the key.
    pub fn key_text(&self) -> String {
        format!("{KEY_PREFIX}{}", self.session_text())
    }

    /// The text to hand to whoever shall have the session.
    pub fn session_text(&self) -> String {
        format!("{}_{}", self.id, self.secret)
    }
}

/// The id of the key that is meant: its id as lists show it, or the whole key, as somebody may have found it.
pub fn key_id(text: &str) -> &str {
    let text = text.strip_prefix(KEY_PREFIX).unwrap_or(text);
    text.split_once('_').map_or(text, |(id, _)| id)
}

/// Secrets do not belong into logs.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SecretHash {
    /// Whether it is of the same secret. Takes the same time wherever they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// For the database.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From the database.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretHash")
    }
}

fn random_text(length: usize) -> Result<String, getrandom::Error> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.into_iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

fn is_text(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_known_by_its_hash() {
        let secret = Secret::generate().expect("random numbers");
        let text = secret.key_text();
        assert_eq!(Secret::of_key(&text), Some(secret.clone()));
        assert_eq!(key_id(&text), secret.id());
        assert_eq!(key_id(secret.id()), secret.id());
        assert!(Secret::of_key(&text).expect("a key").hash().is(&secret.hash()));
        assert!(!Secret::regenerate(secret.id()).expect("random numbers").hash().is(&secret.hash()));
    }

    #[test]
    fn what_is_cut_off_lengthened_or_of_other_letters_is_no_key() {
        let text = Secret::generate().expect("random numbers").key_text();
        for wrong in
            [&text[1..], &text[..text.len() - 1], &format!("{text}a"), &text.to_uppercase(), "", "nck_", "nck__"]
        {
            assert_eq!(Secret::of_key(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn no_secret_is_shown_by_accident() {
        let secret = Secret::generate().expect("random numbers");
        let shown = format!("{secret:?} {:?}", secret.hash());
        assert!(!shown.contains(&secret.secret), "{shown}");
    }
}
