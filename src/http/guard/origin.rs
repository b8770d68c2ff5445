//! Whose wish a request is, where a browser sends it.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};

use crate::http::problem::{Kind, Problem};

/// Whether the request is from a page of this server, or from none: only then the cookie says whose wish it is.
///
/// After Go's `http.CrossOriginProtection`: browsers say where a request comes from (`Sec-Fetch-Site`), and those that do
/// not send `Origin` with whatever may change something. `SameSite=Strict` alone would let through pages of other ports
/// and of sibling domains.
pub(super) fn is_of_this_origin(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").map(|(_, host)| host) == text(header::HOST),
        None => method.is_safe(),
    }
}

/// Whether the host that is asked for is this machine, whatever it is called elsewhere.
pub(super) fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(authority) = host.to_str().unwrap_or("").parse::<axum::http::uri::Authority>() else { return false };
    let host = authority.host().to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Proof that the request is not another site's doing: signing in and out happens without a key, or with the cookie alone.
pub(in crate::http) struct SameOrigin;

impl<S: Send + Sync> FromRequestParts<S> for SameOrigin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Programs that are no browsers send neither header, and have no cookies that somebody could use.
        let says_where = parts.headers.contains_key(header::ORIGIN) || parts.headers.contains_key("sec-fetch-site");
        if says_where && !is_of_this_origin(&parts.method, &parts.headers) {
            return Err(Problem::new(
                Kind::CrossOrigin,
                "A page of another origin sent this; only a page of this server may",
            ));
        }
        Ok(Self)
    }
}
