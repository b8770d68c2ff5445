//! Pages of other origins that may use the interface (CORS), with a key of their own.

use std::str::FromStr;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::CorsLayer;

use super::REQUEST_ID;

/// Browsers ask again after this whether they may.
const MAX_AGE: Duration = Duration::from_secs(3_600);

/// Which pages may use the interface.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CorsSettings {
    /// Origins whose pages may use the interface, separated by commas, such as `https://app.example`: with a key or token of
    /// their own, never with the cookie of the dashboard [default: none]
    #[arg(long, env = "NEWCYCLE_CORS_ORIGINS", value_name = "ORIGINS", default_value = "", hide_default_value = true)]
    pub cors_origins: Origins,
}

/// A list of origins.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<HeaderValue>);

/// Something that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin: write scheme, host and port, if it is not the usual one, as in https://app.example")]
pub struct MalformedOrigin(String);

impl FromStr for Origins {
    type Err = MalformedOrigin;

    fn from_str(text: &str) -> Result<Self, MalformedOrigin> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(origin).collect::<Result<_, _>>().map(Self)
    }
}

fn origin(text: &str) -> Result<HeaderValue, MalformedOrigin> {
    let malformed = || MalformedOrigin(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| malformed())?;
    let is_web = uri.scheme_str().is_some_and(|scheme| matches!(scheme, "http" | "https"));
    // `Uri` has a path of its own where the text has none; browsers send origins in small letters.
    let canonical = text.to_ascii_lowercase();
    let has_path = canonical.matches('/').count() > 2 || uri.query().is_some();
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if !is_web || has_path || has_user {
        return Err(malformed());
    }
    canonical.parse().map_err(|_| malformed())
}

/// Answers browsers that ask whether a page may, if there are pages that may.
pub(super) fn layer(Origins(origins): Origins) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let rate_limit = ["ratelimit", "ratelimit-policy"].map(HeaderName::from_static);
    let exposed = [header::LOCATION, header::RETRY_AFTER, header::WWW_AUTHENTICATE, REQUEST_ID];
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("last-event-id")])
            .expose_headers(exposed.into_iter().chain(rate_limit).collect::<Vec<_>>())
            .max_age(MAX_AGE),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_send_them() {
        let Origins(origins) = " https://App.example ,http://localhost:5173,".parse().expect("origins");
        assert_eq!(origins, ["https://app.example", "http://localhost:5173"]);
        assert!(layer("".parse().expect("none")).is_none());
    }

    #[test]
    fn what_no_browser_sends_as_an_origin_is_refused() {
        for wrong in [
            "*",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/x",
            "ftp://app.example",
            "https://anna@app.example",
            "https://app.example?x",
            "null",
        ] {
            assert!(wrong.parse::<Origins>().is_err(), "{wrong:?}");
        }
    }
}
