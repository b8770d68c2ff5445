//! What browsers are told to be careful about.
//!
//! After the OWASP cheat sheets for REST and for HTTP headers. Pages and files bring a policy of their own; everything
//! else is data, which no browser is to take for a page.

use axum::extract::Request;
use axum::http::header::{self, Entry, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::connection::Transport;

/// For answers that are no pages.
const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
/// The documentation sets styles in its elements, and shows pictures that it has in it.
const DOCUMENTATION_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Whoever came by TLS comes by TLS for a year: nobody between can talk them out of it.
const ENCRYPTED_FOR: &str = "max-age=31536000";

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Adds to every answer what browsers need to know.
pub(super) async fn protect(request: Request, next: Next) -> Response {
    let is_documentation = request.uri().path().starts_with("/docs");
    // Browsers remember that for a name, whatever the port: on this machine it would lock out everything else.
    let is_encrypted = request.extensions().get::<Transport>().is_some_and(|transport| transport.is_encrypted);
    let tell_encrypted = is_encrypted && !is_this_machine(request.headers());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = if is_documentation { DOCUMENTATION_POLICY } else { DATA_POLICY };
    set_unless_there(headers, header::CONTENT_SECURITY_POLICY, policy);
    set_unless_there(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // What is for one caller is not for the next who uses the same browser or proxy.
    set_unless_there(headers, header::CACHE_CONTROL, "no-store");
    set_unless_there(headers, CROSS_ORIGIN_RESOURCE_POLICY, "same-origin");
    if headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html")) {
        set_unless_there(headers, CROSS_ORIGIN_OPENER_POLICY, "same-origin");
        set_unless_there(headers, header::REFERRER_POLICY, "no-referrer");
        set_unless_there(headers, header::X_FRAME_OPTIONS, "DENY");
    }
    if tell_encrypted {
        set_unless_there(headers, header::STRICT_TRANSPORT_SECURITY, ENCRYPTED_FOR);
    }
    response
}

fn is_this_machine(headers: &HeaderMap) -> bool {
    headers.get(header::HOST).is_some_and(|host| host.as_bytes().starts_with(b"localhost"))
}

fn set_unless_there(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    if let Entry::Vacant(place) = headers.entry(name) {
        place.insert(HeaderValue::from_static(value));
    }
}
