//! A web service of another company, which misbehaves on command.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

pub type Change = Box<dyn FnOnce(&mut Vec<Value>) + Send>;

/// What happens to a request instead of, or before, what should.
pub enum Fault {
    /// It is never answered.
    Silence,
    /// The answer breaks off in the middle.
    BreaksOff,
    /// It is answered with this status, and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// It is answered with this, as this type.
    Body(&'static str, String),
    /// The answer is this long.
    Huge(usize),
    /// Something changes before it is answered as it should.
    Change(Change),
    /// It is answered as it should, once that is told.
    Held(oneshot::Receiver<()>),
    /// It is answered as it should.
    None,
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub query: HashMap<String, String>,
    pub headers: HeaderMap,
    pub body: Value,
    pub at: Instant,
}

#[derive(Default)]
struct Inner {
    records: Mutex<Vec<Value>>,
    faults: Mutex<VecDeque<Fault>>,
    asked: Mutex<Vec<Asked>>,
    /// Bearer tokens that are taken, if any are wanted.
    tokens: Mutex<Option<Vec<String>>>,
}

/// A running service. Its records are `{"id": …}` and more; a page has `limit` of them, 10 unless said otherwise.
pub struct Source {
    inner: Arc<Inner>,
    pub url: String,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    pub async fn start(records: Vec<Value>) -> Self {
        let inner = Arc::new(Inner { records: Mutex::new(records), ..Inner::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new()
            .route("/{kind}", any(answer))
            .route("/crm/v3/objects/{*kind}", any(hubspot))
            .with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { inner, url, task }
    }

    /// With so many records.
    pub async fn with(amount: usize) -> Self {
        Self::start(numbered(0, amount)).await
    }

    /// What happens to the next requests, one after the other.
    pub fn then(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner.faults.lock().expect("it").extend(faults);
    }

    /// From now on everything is answered as it should.
    pub fn then_nothing(&self) {
        self.inner.faults.lock().expect("it").clear();
    }

    pub fn change(&self, change: impl FnOnce(&mut Vec<Value>)) {
        change(&mut self.inner.records.lock().expect("it"));
    }

    pub fn records(&self) -> Vec<Value> {
        self.inner.records.lock().expect("it").clone()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().expect("it").clone()
    }

    /// From now on only requests with one of these tokens are answered.
    pub fn want_tokens(&self, tokens: &[&str]) {
        *self.inner.tokens.lock().expect("it") = Some(tokens.iter().map(|token| (*token).to_owned()).collect());
    }
}

pub fn numbered(from: usize, to: usize) -> Vec<Value> {
    (from..to).map(|number| json!({"id": number, "name": format!("record {number}"), "updated_at": number})).collect()
}

async fn note(inner: &Inner, request: Request) -> (Asked, Fault) {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let Query(query) = Query::try_from_uri(&parts.uri).expect("a query");
    let asked = Asked {
        path: parts.uri.path().to_owned(),
        query,
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()),
        at: Instant::now(),
    };
    inner.asked.lock().expect("it").push(asked.clone());
    let fault = inner.faults.lock().expect("it").pop_front().unwrap_or(Fault::None);
    (asked, fault)
}

async fn misbehave(inner: &Inner, fault: Fault) -> Option<Response> {
    match fault {
        Fault::None => None,
        Fault::Change(change) => {
            change(&mut inner.records.lock().expect("it"));
            None
        }
        Fault::Held(told) => {
            let _ = told.await;
            None
        }
        Fault::Silence => std::future::pending().await,
        Fault::BreaksOff => {
            let pieces = [Ok(Bytes::from_static(b"[{\"id\": 1}, ")), Err(std::io::Error::other("it breaks off"))];
            let body = Body::from_stream(stream::iter(pieces));
            Some(([(header::CONTENT_TYPE, "application/json")], body).into_response())
        }
        Fault::Status(status, headers) => {
            let body = Json(json!({"message": format!("this is {status}")}));
            let mut response = (StatusCode::from_u16(status).expect("a status"), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().expect("a value"));
            }
            Some(response)
        }
        Fault::Body(kind, text) => Some(([(header::CONTENT_TYPE, kind)], text).into_response()),
        Fault::Huge(bytes) => {
            let piece = Bytes::from(vec![b' '; 1 << 16]);
            let pieces = stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())).take(bytes >> 16);
            Some(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response())
        }
    }
}

fn is_known(inner: &Inner, asked: &Asked) -> bool {
    let tokens = inner.tokens.lock().expect("it");
    let given = asked.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    tokens.as_ref().is_none_or(|tokens| given.is_some_and(|given| tokens.iter().any(|token| token == given)))
}

async fn answer(State(inner): State<Arc<Inner>>, Path(kind): Path<String>, request: Request) -> Response {
    let (asked, fault) = note(&inner, request).await;
    if let Some(response) = misbehave(&inner, fault).await {
        return response;
    }
    if kind == "token" {
        let token = format!("token {}", inner.asked.lock().expect("it").len());
        *inner.tokens.lock().expect("it") = Some(vec![token.clone()]);
        return Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600})).into_response();
    }
    if !is_known(&inner, &asked) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"message": "who are you?"}))).into_response();
    }
    let number = |name: &str| asked.query.get(name).and_then(|text| text.parse::<usize>().ok());
    let records = inner.records.lock().expect("it").clone();
    let limit = number("limit").unwrap_or(10);
    let since = number("since").and_then(|since| u64::try_from(since).ok());
    let records: Vec<_> = records
        .into_iter()
        .filter(|record| since.is_none_or(|since| record["updated_at"].as_u64() >= Some(since)))
        .collect();
    let begin = match kind.as_str() {
        "pages" => (number("page").unwrap_or(1) - 1) * limit,
        "offsets" => number("offset").unwrap_or(0),
        // Cursors are ids: what comes or goes before them moves nothing.
        "cursors" | "links" | "headers" => match number("after") {
            Some(after) => records.partition_point(|record| record["id"].as_u64() <= u64::try_from(after).ok()),
            None => 0,
        },
        _ => 0,
    };
    let page: Vec<_> = records.iter().skip(begin).take(limit).cloned().collect();
    let last = page.last().map(|record| record["id"].to_string()).filter(|_| begin + limit < records.len());
    match kind.as_str() {
        "pages" | "offsets" => Json(json!({"data": page})).into_response(),
        "cursors" => Json(json!({"data": page, "paging": {"after": last}})).into_response(),
        "links" => {
            let next = last.map(|last| format!("/links?limit={limit}&after={last}"));
            Json(json!({"data": page, "next": next})).into_response()
        }
        "headers" => match last {
            Some(last) => {
                let link = format!("</headers?limit={limit}&after={last}>; rel=\"next\"");
                ([(header::LINK, link)], Json(json!({"data": page}))).into_response()
            }
            None => Json(json!({"data": page})).into_response(),
        },
        "endless" => Json(json!({"data": page, "paging": {"after": asked.query.get("after").map_or("0", |_| "1")}}))
            .into_response(),
        "restless" => {
            let after = number("after").unwrap_or(0) + 1;
            Json(json!({"data": page, "paging": {"after": after}})).into_response()
        }
        "all" => Json(json!(records)).into_response(),
        _ => (StatusCode::NOT_FOUND, Json(json!({"message": "there is nothing here"}))).into_response(),
    }
}

/// As HubSpot answers: lists by `after`, and searches that give out no more than 10,000 results, of which here are 30.
async fn hubspot(State(inner): State<Arc<Inner>>, Path(kind): Path<String>, request: Request) -> Response {
    let (asked, fault) = note(&inner, request).await;
    if let Some(response) = misbehave(&inner, fault).await {
        return response;
    }
    if !is_known(&inner, &asked) {
        let body = json!({"status": "error", "message": "Authentication credentials not found", "category": "INVALID_AUTHENTICATION"});
        return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    let records = inner.records.lock().expect("it").clone();
    let (records, after, limit) = if kind.ends_with("/search") {
        let since = asked.body.pointer("/filterGroups/0/filters/0/value").and_then(Value::as_str);
        let since: i64 = since.map_or(0, |since| since.parse().expect("milliseconds"));
        let modified = |record: &Value| {
            let text = record["properties"]["hs_lastmodifieddate"].as_str().expect("a moment");
            text.parse::<chrono::DateTime<chrono::Utc>>().expect("a moment").timestamp_millis()
        };
        let mut records: Vec<_> = records.into_iter().filter(|record| modified(record) >= since).collect();
        records.sort_by_key(modified);
        (records, asked.body["after"].as_str().map(str::to_owned), asked.body["limit"].as_u64())
    } else {
        (records, asked.query.get("after").cloned(), asked.query.get("limit").and_then(|limit| limit.parse().ok()))
    };
    let begin: usize = after.map_or(0, |after| after.parse().expect("a number"));
    let limit = usize::try_from(limit.expect("a limit")).expect("a number");
    if kind.ends_with("/search") && begin + limit > 10_000 {
        return (StatusCode::BAD_REQUEST, Json(json!({"message": "no more than 10,000 results"}))).into_response();
    }
    let page: Vec<_> = records.iter().skip(begin).take(limit).cloned().collect();
    let mut body = json!({"results": page});
    if begin + limit < records.len() {
        body["paging"] = json!({"next": {"after": (begin + limit).to_string()}});
    }
    let headers = [("x-hubspot-ratelimit-remaining", "42"), ("x-hubspot-ratelimit-interval-milliseconds", "10000")];
    (headers, Json(body)).into_response()
}
