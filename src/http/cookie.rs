//! The cookie of a session.

use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, Utc};
use cookie::time::OffsetDateTime;
use cookie::{Cookie, SameSite};

use crate::auth::Secret;

/// Over TLS the browser itself sees to it that nobody but this very host set the cookie (RFC 6265bis, 4.1.3.2).
const NAME_OVER_TLS: &str = "__Host-newcycle-session";
const NAME: &str = "newcycle-session";

/// The session that the request names.
pub(super) fn session(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| Cookie::split_parse(line).flatten());
    cookies.find(|cookie| matches!(cookie.name(), NAME | NAME_OVER_TLS)).map(|cookie| cookie.value().to_owned())
}

/// Has the browser keep a session until it ends.
pub(super) fn keep(session: &Secret, expires_at: DateTime<Utc>, is_encrypted: bool) -> Option<HeaderValue> {
    let mut cookie = blank(is_encrypted);
    cookie.set_value(session.session_text());
    cookie.set_expires(OffsetDateTime::from_unix_timestamp(expires_at.timestamp()).ok());
    cookie.to_string().parse().ok()
}

/// Has the browser forget it.
pub(super) fn forget(is_encrypted: bool) -> Option<HeaderValue> {
    let mut cookie = blank(is_encrypted);
    cookie.make_removal();
    cookie.to_string().parse().ok()
}

fn blank(is_encrypted: bool) -> Cookie<'static> {
    let name = if is_encrypted { NAME_OVER_TLS } else { NAME };
    Cookie::build(name).path("/").http_only(true).same_site(SameSite::Strict).secure(is_encrypted).build()
}
