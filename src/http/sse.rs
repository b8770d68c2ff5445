//! A hub subscription as a response of server-sent events.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use sqlx::PgPool;

use super::problem::Problem;
use crate::hub::{Hub, Step, Subscription, Topic};
use crate::statistics::query;

/// How long readers wait before they connect again, by chance within these bounds: when a server stops, they should not
/// all come to the next one in the same second.
const RETRY_MILLIS: std::ops::Range<u64> = 500..3_000;
/// A resumed stream that waits longer for what it missed gets everything instead.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// The stream of a topic, from where the reader left off if it can say so.
pub(super) fn stream(
    hub: &Arc<Hub>,
    pool: PgPool,
    topic: Topic,
    headers: &HeaderMap,
    interval: Option<Duration>,
) -> Result<Response, Problem> {
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let resume = last_id.and_then(|id| topic.position_of(id));
    let subscription = hub.subscribe(topic, resume, interval)?;
    let messages = stream::unfold(Some((subscription, pool, true)), |state| async move {
        let (mut subscription, pool, first) = state?;
        if first {
            return Some((Ok::<_, std::convert::Infallible>(retry()), Some((subscription, pool, false))));
        }
        match next(&mut subscription, &pool).await {
            Some(bytes) => Some((Ok(bytes), Some((subscription, pool, false)))),
            None => Some((Ok(retry()), None)),
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that collect before they pass on (nginx) do not with this.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(messages)).into_response())
}

async fn next(subscription: &mut Subscription, pool: &PgPool) -> Option<Bytes> {
    loop {
        match subscription.next().await {
            Step::Send(bytes) => return Some(bytes),
            Step::End => return None,
            Step::LookUp(position) => {
                let changes = tokio::time::timeout(LOOK_UP_TIMEOUT, query::changes_since(pool, &position)).await;
                let missed = match changes {
                    Ok(Ok(changes)) => changes.deltas,
                    Ok(Err(error)) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a stream cannot be resumed");
                        None
                    }
                    Err(_too_long) => None,
                };
                subscription.resume(missed);
            }
        }
    }
}

fn retry() -> Bytes {
    let span = RETRY_MILLIS.end - RETRY_MILLIS.start;
    // Every `RandomState` is seeded differently.
    let millis = RETRY_MILLIS.start + RandomState::new().hash_one(0) % span;
    format!("retry: {millis}\n\n").into()
}
