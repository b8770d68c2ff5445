//! The last word on a connection that hyper does not have, or has no more.

use std::fmt::Write;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::http::problem::Problem;

/// How long the last word may take to be heard. A socket that is closed while something lies in it unread takes back what
/// was not delivered yet, so what the client still sends is read until it has closed its side; one that does not may
/// lose the answer.
const LISTENING: Duration = Duration::from_secs(1);
/// What a client is asked to wait when there is no room: others must leave first.
const RETRY_AFTER_SECONDS: u32 = 5;

/// Tells a client what is wrong, and closes the connection.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, problem: Problem) {
    let response = response(&problem);
    let telling = async {
        socket.write_all(response.as_bytes()).await?;
        socket.shutdown().await?;
        while socket.read(&mut [0; 512]).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whether it was heard changes nothing.
    let _ = tokio::time::timeout(LISTENING, telling).await;
}

/// Closes a connection in order.
pub(super) async fn close<S: AsyncWrite + Unpin>(mut socket: S) {
    let _ = tokio::time::timeout(LISTENING, socket.shutdown()).await;
}

fn response(problem: &Problem) -> String {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
    let body = serde_json::to_string(problem).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n");
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let _ = write!(text, "retry-after: {RETRY_AFTER_SECONDS}\r\n");
    }
    let _ = write!(text, "content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    text
}
