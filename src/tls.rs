//! TLS with certificates from files, taken over when they change.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::{OsStringValueParser, TypedValueParser};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
pub(crate) use validity::Validity;

/// How often the files are looked at. Whoever replaces a certificate sees soon whether that was right, and reading two
/// small files costs next to nothing. Their contents are compared, not their times: Kubernetes swaps symbolic links.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Which certificate to use, if any.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsSettings {
    /// Speak HTTPS with the certificate in this file: PEM, the server's own first, then those of its issuers. When the
    /// file changes, new connections get the new certificate
    #[arg(long, env = "NEWCYCLE_TLS_CERTIFICATE", value_name = "FILE", value_parser = file_or_nothing())]
    tls_certificate: Option<PathBuf>,
    /// The private key of that certificate: PEM, without a passphrase
    #[arg(long, env = "NEWCYCLE_TLS_KEY", value_name = "FILE", value_parser = file_or_nothing())]
    tls_key: Option<PathBuf>,
}

/// A file. One that is set to nothing in the environment, as files of settings like to do, is not set.
pub(crate) fn file_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The file, if it is set to something.
pub(crate) fn named(file: Option<&PathBuf>) -> Option<&PathBuf> {
    file.filter(|path| !path.as_os_str().is_empty())
}

impl TlsSettings {
    /// From when until when the certificate is valid, and where its key is, if files are named that can be read.
    pub(crate) fn named_pair(&self) -> Option<(Validity, &Path)> {
        let key = named(self.tls_key.as_ref())?;
        let pem = std::fs::read(named(self.tls_certificate.as_ref())?).ok()?;
        let own = CertificateDer::pem_slice_iter(&pem).next()?.ok()?;
        Some((Validity::of(&own)?, key))
    }

    /// Reads the files. Nothing if none are named.
    pub fn load(&self) -> Result<Option<Tls>, TlsError> {
        match (named(self.tls_certificate.as_ref()), named(self.tls_key.as_ref())) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Tls::load(certificate.clone(), key.clone()).map(Some),
            (Some(_), None) => Err(TlsError::Half { given: "--tls-certificate", missing: "--tls-key" }),
            (None, Some(_)) => Err(TlsError::Half { given: "--tls-key", missing: "--tls-certificate" }),
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of two settings.
    #[error("{given} needs {missing} beside it: name both files, or neither")]
    Half {
        /// What was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// A file that is not there, or not for us.
    #[error("cannot read {}, which {setting} names", .path.display())]
    Unreadable {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file that is no PEM.
    #[error("{} is not a PEM file that can be read: it is damaged or incomplete", .path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A file with something else in it.
    #[error("there is no certificate in {}: it must have a part that begins with -----BEGIN CERTIFICATE-----", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file with something else in it.
    #[error(
        "there is no private key in {}: it must have a part that begins with -----BEGIN PRIVATE KEY-----; one with a \
        passphrase is not read (openssl pkey takes it off)",
        .path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Each good for itself.
    #[error(
        "the key in {} does not belong to the certificate in {}: the server's own certificate must come first in the file, \
        and be made for that key",
        .key.display(), .certificate.display()
    )]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// What the TLS library does not take.
    #[error("the certificate in {} cannot be used with the key in {}", .certificate.display(), .key.display())]
    Unusable {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong with them.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library cannot be set up.
    #[error("TLS cannot be set up")]
    SetUp(#[from] rustls::Error),
}

/// A certificate and its key, for all connections.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    pair: Arc<Pair>,
}

impl Tls {
    /// Reads a certificate and its key.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        // Named here, so that nothing depends on what else in the program has made its choice of a library.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files { certificate, key };
        let contents = files.read()?;
        let pair = Arc::new(Pair {
            current: RwLock::new(Arc::new(files.pair(&contents, &provider)?)),
            seen: Mutex::new(Ok(contents.digest())),
            files,
            provider,
        });
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&pair.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&pair) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients keep what they need to resume, so that thousands who come back after a network broke cost no
        // signature each, and the server remembers none of them.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Self { config: Arc::new(config), pair })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config).into()
    }

    /// When the certificate ends that new connections get, if it can be read.
    pub fn valid_until(&self) -> Option<DateTime<Utc>> {
        let current = Arc::clone(&self.pair.current.read().unwrap_or_else(PoisonError::into_inner));
        Validity::of(current.cert.first()?).map(|validity| validity.end)
    }

    /// Looks whether the files have changed since the last look, and uses for new connections from now on what is in
    /// them. What cannot be used is an error once, and changes nothing.
    pub fn look(&self) -> Result<bool, TlsError> {
        self.pair.look()
    }

    /// Looks again and again, until the stop.
    pub(crate) async fn follow(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let tls = self.clone();
            // Files may lie on a network.
            match tokio::task::spawn_blocking(move || tls.look()).await {
                Ok(Ok(true)) => tracing::info!("new connections get the new TLS certificate"),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "the TLS certificate was replaced by one that cannot be used; the old one stays"
                    );
                }
            }
        }
    }
}

/// The pair in use, and what is known of the files.
#[derive(Debug)]
struct Pair {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
    /// What the files were like at the last look: which contents they had, or why they could not be read. A mutex, so
    /// that no two looks overlap.
    seen: Mutex<Result<[u8; 32], String>>,
}

impl Pair {
    fn look(&self) -> Result<bool, TlsError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = self.files.read();
        let now = contents.as_ref().map(Contents::digest).map_err(|error| format!("{error:?}"));
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        let pair = Arc::new(self.files.pair(&contents?, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(true)
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.certificate.len().to_le_bytes());
        digest.update(&self.certificate);
        digest.update(&self.key);
        digest.finalize().into()
    }
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents { certificate: read("--tls-certificate", &self.certificate)?, key: read("--tls-key", &self.key)? })
    }

    /// What is in the files, if it belongs together.
    fn pair(&self, contents: &Contents, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let certificates = CertificateDer::pem_slice_iter(&contents.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| TlsError::NotPem { path: self.certificate.clone(), source })?;
        let Some(own) = certificates.first() else {
            return Err(TlsError::NoCertificate { path: self.certificate.clone() });
        };
        let validity = Validity::of(own);
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|source| match source {
            pem::Error::NoItemsFound => TlsError::NoKey { path: self.key.clone() },
            source => TlsError::NotPem { path: self.key.clone(), source },
        })?;
        let (certificate, key_file) = (self.certificate.clone(), self.key.clone());
        let pair = CertifiedKey::from_der(certificates, key, provider).map_err(|source| match source {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate, key: key_file }
            }
            source => TlsError::Unusable { certificate, key: key_file, source },
        })?;
        if let Some(trouble) = validity.and_then(|validity| validity.trouble_at(Utc::now())) {
            tracing::warn!("the certificate in {} {trouble}; clients will not accept it", self.certificate.display());
        }
        Ok(pair)
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { setting, path: path.to_owned(), source })
}
