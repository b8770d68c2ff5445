//! Secrets of sources, encrypted: what is in the database, in its backups and in what analysts see, is of no use without the
//! key, which is not there.
//!
//! AES-256-GCM-SIV (RFC 8452) with a random nonce, bound to the stream that the secret is of.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::{fmt, fs, io};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use uuid::Uuid;

/// In the data directory, where no setting says another key.
pub(crate) const FILE: &str = "encryption.key";
const KEY_LENGTH: usize = 32;

/// Keys as settings have them: 64 hexadecimal digits each, with commas between them.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; KEY_LENGTH]>);

/// What is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("takes 64 hexadecimal digits, as `openssl rand -hex 32` makes them; several keys with commas between them")]
pub struct MalformedKey;

impl FromStr for Keys {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty());
        let read = |key: &str| hex::decode(key).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(MalformedKey);
        Ok(Self(keys.map(read).collect::<Result<_, _>>()?))
    }
}

impl Keys {
    /// Whether no setting says a key, so that it is in a file.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys")
    }
}

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There is no key.
    #[error("the key for secrets cannot be read from, or written to, {FILE} in the data directory")]
    NoKey(#[source] Arc<io::Error>),
    /// It was sealed with another key, or is damaged.
    #[error("it was encrypted with another key: NEWCYCLE_ENCRYPTION_KEY must be the same for all servers and workers")]
    AnotherKey,
    /// What was sealed is not what this version seals.
    #[error("it was written by another version")]
    AnotherVersion,
    /// The system has no random numbers.
    #[error("it cannot be encrypted")]
    Unable,
}

/// Seals and opens. A shared handle.
#[derive(Clone)]
pub struct Seal(Arc<Result<Vec<RandomizedNonceKey>, Arc<io::Error>>>);

impl fmt::Debug for Seal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Seal")
    }
}

impl Seal {
    /// With the keys of the settings, of which the first seals and all open; without, with one that is in the data directory,
    /// where it is made if there is none. That this cannot be done is told to whoever needs it.
    pub fn new(keys: &Keys, data_directory: &Path) -> Self {
        let keys = if keys.0.is_empty() { own_key(data_directory).map(|key| vec![key]) } else { Ok(keys.0.clone()) };
        let keys = keys.and_then(|keys| {
            let key = |bytes: &[u8; KEY_LENGTH]| RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes);
            keys.iter().map(key).collect::<Result<_, _>>().map_err(|_| io::Error::other("the key cannot be used"))
        });
        Self(Arc::new(keys.map_err(Arc::new)))
    }

    fn keys(&self) -> Result<&[RandomizedNonceKey], SealError> {
        self.0.as_ref().as_ref().map(Vec::as_slice).map_err(|error| SealError::NoKey(Arc::clone(error)))
    }

    /// Seals a secret of a stream.
    pub fn seal(&self, stream: Uuid, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys()?.first().ok_or(SealError::Unable)?;
        let mut sealed = secret.to_vec();
        let nonce =
            key.seal_in_place_append_tag(Aad::from(stream.as_bytes()), &mut sealed).map_err(|_| SealError::Unable)?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens it.
    pub fn open(&self, stream: Uuid, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::AnotherKey)?;
        for key in self.keys()? {
            let mut bytes = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            if let Ok(secret) = key.open_in_place(nonce, Aad::from(stream.as_bytes()), &mut bytes) {
                return Ok(secret.to_vec());
            }
        }
        Err(SealError::AnotherKey)
    }
}

/// The key in the data directory: that of the first server or worker that needed one.
fn own_key(data_directory: &Path) -> io::Result<[u8; KEY_LENGTH]> {
    let path = data_directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let keys = text.parse::<Keys>().map_err(io::Error::other)?;
            return keys.0.first().copied().ok_or_else(|| io::Error::other("the file is empty"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir_all(data_directory)?;
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    // Whole or not at all, and never over one that somebody else has made at the same moment.
    let unfinished = data_directory.join(format!("{FILE}.{}", Uuid::now_v7()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(hex::encode(key).as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&unfinished, &path);
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => own_key(data_directory),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn seal(keys: &str) -> Seal {
        Seal::new(&keys.parse().expect("keys"), Path::new("/nonexistent"))
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_key_for_the_same_stream() {
        let (stream, another) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let sealed = seal(ONE).seal(stream, b"hush").expect("sealed");
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        assert_ne!(seal(ONE).seal(stream, b"hush").expect("sealed"), sealed, "no two are alike");
        assert_eq!(seal(ONE).open(stream, &sealed).expect("opened"), b"hush");
        assert_eq!(seal(&format!("{OTHER}, {ONE}")).open(stream, &sealed).expect("opened"), b"hush", "after a change");
        assert!(matches!(seal(OTHER).open(stream, &sealed), Err(SealError::AnotherKey)));
        assert!(matches!(seal(ONE).open(another, &sealed), Err(SealError::AnotherKey)));
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert!(seal(ONE).open(stream, &damaged).is_err(), "{position}");
        }
        assert!(seal(ONE).open(stream, &sealed[..5]).is_err());
    }

    #[test]
    fn a_key_of_its_own_is_made_once_and_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let seals: Vec<_> = std::thread::scope(|scope| {
            let make = || scope.spawn(|| Seal::new(&Keys::default(), directory.path()));
            [make(), make(), make(), make()].into_iter().map(|thread| thread.join().expect("a seal")).collect()
        });
        let sealed = seals[0].seal(Uuid::nil(), b"hush").expect("sealed");
        for seal in &seals {
            assert_eq!(seal.open(Uuid::nil(), &sealed).expect("opened"), b"hush");
        }
        let files: Vec<_> = directory.path().read_dir().expect("files").flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(files[0].metadata().expect("its mode").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["hush", &ONE[1..], &format!("{ONE},x")] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
        let nowhere = Seal::new(&Keys::default(), Path::new("/proc/nonexistent"));
        assert!(matches!(nowhere.seal(Uuid::nil(), b"hush"), Err(SealError::NoKey(_))));
    }
}
