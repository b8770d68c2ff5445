//! Where a database is, and how connections to it are encrypted.
//!
//! The terms are libpq's (`sslmode`, `sslrootcert`), in the URL or in its variables (`PGSSLMODE`, `PGSSLROOTCERT`). Two things
//! differ: certificates of public authorities are trusted without a file, and those of a file besides; and over Unix sockets
//! nothing is encrypted, whatever the mode.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sqlx::postgres::PgSslMode;
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;
use url::form_urlencoded;

use super::DatabaseError;

/// How a connection is encrypted, and whom it trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SslMode {
    /// Not at all
    Disable,
    /// If Postgres can, and whoever it is
    Prefer,
    /// Always, and whoever it is; with a file of certificates as verify-ca
    Require,
    /// Always, and only if an authority that is trusted says who it is
    VerifyCa,
    /// Always, and only if such an authority says that it is the host that was asked for
    VerifyFull,
}

/// Where a database is, and how connections to it are encrypted.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) config: Config,
    mode: Option<SslMode>,
    roots: Option<PathBuf>,
}

/// A mode that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sslmode is none of disable, prefer, require, verify-ca and verify-full")]
pub struct UnknownSslMode;

impl Target {
    /// What a URL does not say, other settings may.
    pub(super) fn or(mut self, mode: Option<SslMode>, roots: Option<&Path>) -> Self {
        self.mode = self.mode.or(mode);
        self.roots = self.roots.or_else(|| roots.map(Path::to_owned));
        self
    }

    pub(super) fn mode(&self) -> SslMode {
        match (self.mode.unwrap_or(SslMode::Prefer), &self.roots) {
            // Who names authorities wants them to be asked. libpq does the same.
            (SslMode::Require, Some(_)) => SslMode::VerifyCa,
            (mode, _) => mode,
        }
    }

    /// The file with certificates of authorities that are trusted besides public ones.
    pub(super) fn roots(&self) -> Option<&Path> {
        self.roots.as_deref()
    }

    /// How tokio-postgres encrypts.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, DatabaseError> {
        // Named here, so that nothing depends on what else in the program has made its choice of a library.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let any_name = |authorities| Arc::new(AnyName { authorities, provider: provider.clone() });
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode() {
            SslMode::Disable | SslMode::Prefer | SslMode::Require => any_name(None),
            SslMode::VerifyCa => any_name(Some(self.authorities(provider.clone())?)),
            SslMode::VerifyFull => self.authorities(provider)?,
        };
        let client = client.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(MakeRustlsConnect::new(client))
    }

    fn authorities(&self, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, DatabaseError> {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = &self.roots {
            let unreadable = |source| DatabaseError::UnreadableRoots { path: path.clone(), source };
            let public = roots.len();
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                roots.add(certificate.map_err(unreadable)?)?;
            }
            if roots.len() == public {
                return Err(unreadable(pem::Error::NoItemsFound));
            }
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        verifier.map_err(|error| DatabaseError::Tls(Error::General(error.to_string())))
    }
}

impl From<Config> for Target {
    fn from(config: Config) -> Self {
        let mode = match config.get_ssl_mode() {
            tokio_postgres::config::SslMode::Disable => Some(SslMode::Disable),
            tokio_postgres::config::SslMode::Require => Some(SslMode::Require),
            _ => None,
        };
        Self { config, mode, roots: None }
    }
}

impl FromStr for Target {
    type Err = DatabaseError;

    /// Reads a URL. tokio-postgres knows half of the modes, and no file, so these parts are taken out before.
    fn from_str(url: &str) -> Result<Self, DatabaseError> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots, mut others) = (None, None, Vec::new());
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match form_urlencoded::parse(part.as_bytes()).next() {
                Some((name, value)) if name == "sslmode" => mode = Some(value.parse()?),
                // Those of public authorities are trusted anyway.
                Some((name, value)) if name == "sslrootcert" && value == "system" => {}
                Some((name, value)) if name == "sslrootcert" => roots = Some(PathBuf::from(&*value)),
                _ => others.push(part),
            }
        }
        let plain = if others.is_empty() { place.to_owned() } else { format!("{place}?{}", others.join("&")) };
        let target = Self::from(plain.parse::<Config>().map_err(DatabaseError::MalformedUrl)?);
        Ok(Self { mode: mode.or(target.mode), roots, ..target })
    }
}

impl FromStr for SslMode {
    type Err = UnknownSslMode;

    fn from_str(text: &str) -> Result<Self, UnknownSslMode> {
        clap::ValueEnum::from_str(text, false).map_err(|_| UnknownSslMode)
    }
}

impl From<SslMode> for PgSslMode {
    fn from(mode: SslMode) -> Self {
        match mode {
            SslMode::Disable => Self::Disable,
            SslMode::Prefer => Self::Prefer,
            SslMode::Require => Self::Require,
            SslMode::VerifyCa => Self::VerifyCa,
            SslMode::VerifyFull => Self::VerifyFull,
        }
    }
}

impl From<SslMode> for tokio_postgres::config::SslMode {
    fn from(mode: SslMode) -> Self {
        match mode {
            SslMode::Disable => Self::Disable,
            SslMode::Prefer => Self::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Self::Require,
        }
    }
}

/// Trusts whoever an authority knows, by whatever name; without authorities whoever answers: nobody can listen then, but anybody
/// could have answered.
#[derive(Debug)]
struct AnyName {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        status: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        match authorities.verify_server_cert(certificate, issuers, name, status, now) {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    fn read(url: &str) -> Target {
        url.parse().expect("a URL")
    }

    #[test]
    fn a_url_says_how_connections_are_encrypted() {
        for (query, mode, roots) in [
            ("", SslMode::Prefer, None),
            ("?sslmode=disable", SslMode::Disable, None),
            ("?sslmode=require", SslMode::Require, None),
            ("?sslmode=require&sslrootcert=system", SslMode::Require, None),
            ("?sslrootcert=/etc/ca.pem&sslmode=require", SslMode::VerifyCa, Some("/etc/ca.pem")),
            ("?connect_timeout=3&sslmode=verify-full&sslrootcert=my%20ca.pem", SslMode::VerifyFull, Some("my ca.pem")),
        ] {
            let target = read(&format!("postgres://me@db1:1,db2:2/newcycle{query}"));
            assert_eq!((target.mode(), target.roots()), (mode, roots.map(Path::new)), "{query}");
            assert_eq!(target.config.get_hosts(), [Host::Tcp("db1".to_owned()), Host::Tcp("db2".to_owned())]);
            assert_eq!((target.config.get_ports(), target.config.get_dbname()), (&[1, 2][..], Some("newcycle")));
            assert_eq!(target.config.get_connect_timeout().is_some(), query.contains("timeout"));
        }
        assert_eq!(read("host=db1 sslmode=require").mode(), SslMode::Require);
    }

    #[test]
    fn what_the_url_does_not_say_other_settings_do() {
        let other = Some(Path::new("other.pem"));
        let silent = read("postgres://db1/newcycle").or(Some(SslMode::VerifyFull), other);
        assert_eq!((silent.mode(), silent.roots()), (SslMode::VerifyFull, other));
        let said =
            read("postgres://db1/newcycle?sslmode=disable&sslrootcert=mine.pem").or(Some(SslMode::VerifyFull), other);
        assert_eq!((said.mode(), said.roots()), (SslMode::Disable, Some(Path::new("mine.pem"))));
    }

    #[test]
    fn a_mode_that_there_is_not_and_a_file_without_certificates_are_refused_with_their_names() {
        let error = "postgres://db1/newcycle?sslmode=allow".parse::<Target>().expect_err("there is none").to_string();
        assert!(error.contains("sslmode") && error.contains("verify-full"), "{error}");
        for file in ["nowhere.pem", "Cargo.toml"] {
            let error = read(&format!("postgres://db1/newcycle?sslmode=verify-ca&sslrootcert={file}")).tls().err();
            assert!(error.is_some_and(|error| error.to_string().contains(file)));
        }
    }
}
