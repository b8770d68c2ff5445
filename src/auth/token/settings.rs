//! Which identity provider's tokens are accepted.

use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;

use super::claims::{Expectations, ScopesClaim};
use super::source::KeySource;

/// The claim in which OAuth 2.0 has scopes (RFC 8693, 4.2).
const DEFAULT_SCOPES_CLAIM: &str = "scope";

/// Whose tokens are accepted, and where in them the scopes are.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TokenSettings {
    /// Keys of the identity provider whose tokens (JWTs) are accepted: the https URL of its JWK set, or a file with it
    #[arg(long, env = "NEWCYCLE_JWT_JWKS", value_name = "URL|FILE")]
    pub jwt_jwks: Option<String>,
    /// Who must have issued a token: the provider's name for itself, letter by letter
    #[arg(long, env = "NEWCYCLE_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Whom a token must be for: the provider's name for this server
    #[arg(long, env = "NEWCYCLE_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Claim that has the scopes, as an array or separated by spaces; dots reach into objects, as in realm_access.roles
    #[arg(long, env = "NEWCYCLE_JWT_SCOPES_CLAIM", value_name = "CLAIM", default_value = DEFAULT_SCOPES_CLAIM)]
    pub jwt_scopes_claim: String,
}

/// Settings that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TokenSettingsError {
    /// Of three settings that need one another, this one is not there.
    #[error("tokens of an identity provider need its keys, its issuer and an audience: {0} is missing")]
    Missing(&'static str),
    /// What looks like a URL is none.
    #[error("--jwt-jwks (NEWCYCLE_JWT_JWKS) is not a URL that can be read")]
    MalformedUrl(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Neither a file nor what a web server has.
    #[error("--jwt-jwks (NEWCYCLE_JWT_JWKS) is to be a file or an https URL, and {0}: is neither")]
    UnknownScheme(String),
    /// Whoever is between us and them could put in keys of their own.
    #[error(
        "--jwt-jwks (NEWCYCLE_JWT_JWKS) fetches keys from {0} in the clear, where they could be exchanged on the way: use \
        https, or http from this machine itself"
    )]
    InTheClear(String),
}

impl TokenSettings {
    /// Where the provider's keys are and what its tokens must say, if there is a provider. What is empty was not given:
    /// so environment variables can be unset where files set them all.
    pub(super) fn provider(&self) -> Result<Option<(KeySource, Expectations)>, TokenSettingsError> {
        let jwks = given(self.jwt_jwks.as_deref());
        let issuer = given(self.jwt_issuer.as_deref());
        let audience = given(self.jwt_audience.as_deref());
        if jwks.or(issuer).or(audience).is_none() {
            return Ok(None);
        }
        let missing = |name| move || TokenSettingsError::Missing(name);
        let jwks = jwks.ok_or_else(missing("--jwt-jwks (NEWCYCLE_JWT_JWKS)"))?;
        let issuer = issuer.ok_or_else(missing("--jwt-issuer (NEWCYCLE_JWT_ISSUER)"))?;
        let audience = audience.ok_or_else(missing("--jwt-audience (NEWCYCLE_JWT_AUDIENCE)"))?;
        let scopes = ScopesClaim::new(given(Some(&self.jwt_scopes_claim)).unwrap_or(DEFAULT_SCOPES_CLAIM));
        Ok(Some((source(jwks)?, Expectations { issuer: issuer.to_owned(), audience: audience.to_owned(), scopes })))
    }
}

fn given(setting: Option<&str>) -> Option<&str> {
    setting.filter(|text| !text.is_empty())
}

fn source(jwks: &str) -> Result<KeySource, TokenSettingsError> {
    if !jwks.contains("://") {
        return Ok(KeySource::File(PathBuf::from(jwks)));
    }
    let url = Url::parse(jwks).map_err(|error| TokenSettingsError::MalformedUrl(error.into()))?;
    match url.scheme() {
        "https" => Ok(KeySource::Url(url)),
        "http" if is_this_machine(&url) => Ok(KeySource::Url(url)),
        "http" => Err(TokenSettingsError::InTheClear(url.host_str().unwrap_or_default().to_owned())),
        scheme => Err(TokenSettingsError::UnknownScheme(scheme.to_owned())),
    }
}

/// Whether what is fetched from there never leaves this machine.
pub(super) fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(jwks: &str, issuer: &str, audience: &str) -> TokenSettings {
        TokenSettings {
            jwt_jwks: Some(jwks.to_owned()),
            jwt_issuer: Some(issuer.to_owned()),
            jwt_audience: Some(audience.to_owned()),
            jwt_scopes_claim: String::new(),
        }
    }

    fn refusal(jwks: &str) -> String {
        settings(jwks, "issuer", "audience").provider().expect_err("a refusal").to_string()
    }

    #[test]
    fn nothing_given_is_no_provider() {
        assert!(TokenSettings::default().provider().expect("settings").is_none());
        assert!(settings("", "", "").provider().expect("settings").is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        for (given, missing) in [
            (settings("", "issuer", "audience"), "NEWCYCLE_JWT_JWKS"),
            (settings("keys.json", "", "audience"), "NEWCYCLE_JWT_ISSUER"),
            (settings("keys.json", "issuer", ""), "NEWCYCLE_JWT_AUDIENCE"),
        ] {
            let error = given.provider().expect_err("something is missing").to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn keys_come_from_a_file_or_a_url() {
        for (jwks, expected) in [
            ("/etc/newcycle/keys.json", KeySource::File("/etc/newcycle/keys.json".into())),
            ("keys.json", KeySource::File("keys.json".into())),
            ("https://id.example/keys", KeySource::Url("https://id.example/keys".parse().expect("a URL"))),
            ("HTTPS://id.example/keys", KeySource::Url("https://id.example/keys".parse().expect("a URL"))),
            ("http://127.0.0.9:80/keys", KeySource::Url("http://127.0.0.9:80/keys".parse().expect("a URL"))),
            ("http://[::1]/keys", KeySource::Url("http://[::1]/keys".parse().expect("a URL"))),
            ("http://localhost:8/keys", KeySource::Url("http://localhost:8/keys".parse().expect("a URL"))),
        ] {
            let (source, _) = settings(jwks, "issuer", "audience").provider().expect("settings").expect("a provider");
            assert_eq!(source, expected);
        }
    }

    #[test]
    fn keys_are_not_fetched_in_the_clear_over_a_network() {
        for host in
            ["id.example", "10.0.0.1", "localhost.example", "127.0.0.1.example", "[2001:db8::1]", "[::ffff:7f00:1]"]
        {
            let error = refusal(&format!("http://{host}/keys"));
            assert!(error.contains(host) && error.contains("in the clear"), "{error}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        assert!(refusal("ftp://id.example/keys").contains("ftp: is neither"));
        assert!(refusal("file:///keys.json").contains("file: is neither"));
        assert!(refusal("https://").contains("not a URL"));
    }
}
