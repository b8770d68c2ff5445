//! The dashboard, built into the binary.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use super::problem::{Kind, Problem};

#[derive(RustEmbed)]
#[folder = "dashboard/dist"]
struct Dashboard;

/// Nothing but what this server serves, and no script or style in the page itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const NOT_BUILT: &str =
    "The dashboard is not part of this binary: build it with `make dashboard`, then the server again.";

/// Serves a file of the dashboard, or says that there is no such thing.
pub(super) async fn serve(request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let Some(file) = Dashboard::get(path) else {
        if path == "index.html" {
            return (StatusCode::NOT_FOUND, NOT_BUILT).into_response();
        }
        return Problem::new(Kind::NotFound, format!("There is nothing at /{path}")).into_response();
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::new(Kind::MethodNotAllowed, "Files can only be read").into_response();
    }
    // Weak, since the same file goes out compressed and as it is.
    let etag = format!("W/\"{}\"", hex(&file.metadata.sha256_hash()[..16]));
    // Vite puts a hash of the content into the names of assets: those never change.
    let caching = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = if request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known == etag.as_str()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.data.into_response()
    };
    let headers = response.headers_mut();
    let mut set = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, file.metadata.mimetype());
    set(header::ETAG, &etag);
    set(header::CACHE_CONTROL, caching);
    set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
