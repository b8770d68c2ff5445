//! Traces: what a collector is sent, and that nobody has to wait for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use newcycle::auth::{Scopes, keys};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::Api;
use crate::exports;
use crate::faults::{Obstacle, Process};
use crate::harness::{PATIENCE, connect, data_directory, eventually, new_database};
use crate::source::Source;
use crate::streams;

/// How a collector behaves.
#[derive(Clone, Copy)]
enum Mood {
    Takes,
    Refuses,
    Hangs,
}

/// What a collector was sent.
#[derive(Clone)]
struct Sent {
    headers: HeaderMap,
    body: Bytes,
}

struct Inner {
    mood: Mood,
    sent: Mutex<Vec<Sent>>,
    asked: Notify,
}

/// A collector of traces, on a port of its own.
struct Collector {
    inner: Arc<Inner>,
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    async fn start(mood: Mood) -> Self {
        let inner = Arc::new(Inner { mood, sent: Mutex::default(), asked: Notify::new() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { inner, url, task }
    }

    fn sent(&self) -> Vec<Sent> {
        self.inner.sent.lock().expect("it").clone()
    }

    /// All spans so far, each with its attributes as an object.
    fn spans(&self) -> Vec<Value> {
        let bodies = self.sent().into_iter().map(|sent| serde_json::from_slice::<Value>(&sent.body).expect("JSON"));
        let spans = bodies.flat_map(|body| {
            let scopes = list(&body["resourceSpans"]).into_iter().flat_map(|resource| list(&resource["scopeSpans"]));
            scopes.flat_map(|scope| list(&scope["spans"])).collect::<Vec<_>>()
        });
        spans.map(with_attributes).collect()
    }

    /// The first span that is like that, once it is there.
    async fn span(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(|| async {
            let found = self.spans().into_iter().find(&is_it);
            found.ok_or_else(|| format!("no {what} among {:#}", Value::from(self.spans())))
        })
        .await
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    inner.sent.lock().expect("it").push(Sent { headers, body });
    inner.asked.notify_one();
    match inner.mood {
        Mood::Takes => (StatusCode::OK, "{}"),
        Mood::Refuses => (StatusCode::BAD_REQUEST, "{}"),
        Mood::Hangs => std::future::pending().await,
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn with_attributes(mut span: Value) -> Value {
    let attributes = list(&span["attributes"]).into_iter().map(|attribute| {
        let value = attribute["value"].as_object().and_then(|value| value.values().next()).cloned();
        (attribute["key"].as_str().expect("a name").to_owned(), value.unwrap_or_default())
    });
    span["attributes"] = Value::Object(attributes.collect());
    span
}

fn text<'a>(span: &'a Value, field: &str) -> &'a str {
    span[field].as_str().unwrap_or_default()
}

/// The spans to which a span is linked.
fn links(span: &Value) -> Vec<String> {
    list(&span["links"]).iter().map(|link| text(link, "spanId").to_owned()).collect()
}

/// A program that sends traces to that endpoint, as soon as it has any.
async fn traced(name: &str, endpoint: &str, settings: &[(&str, &str)]) -> Process {
    let standard = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    let settings: Vec<_> = standard.iter().chain(settings).copied().collect();
    Process::start(name, &format!("exec 2>{};", log(name).display()), &settings).await
}

/// Where a program's log is.
fn log(name: &str) -> PathBuf {
    let directory = data_directory(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory.join("log")
}

fn logged(name: &str) -> String {
    std::fs::read_to_string(log(name)).expect("a log")
}

/// Stops a program in order. How long that took.
async fn stop(mut process: Process) -> Duration {
    let id = process.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("a process");
    let begin = Instant::now();
    kill_process(id, Signal::TERM).expect("the signal is sent");
    let status = tokio::time::timeout(PATIENCE, process.child.wait()).await.expect("it stops").expect("a status");
    assert!(status.success(), "{status}");
    begin.elapsed()
}

/// Creates a user for somebody with a trace of their own.
async fn create_user(api: &Api, trace_id: &str, span_id: &str) {
    let request = api.request(Method::POST, "/users").json(&json!({}));
    let (status, user) = Api::send(request.header("traceparent", format!("00-{trace_id}-{span_id}-01"))).await;
    assert_eq!(status, StatusCode::CREATED, "{user}");
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_request_is_a_span_in_its_callers_trace_and_so_is_what_it_waited_for() {
    let collector = Collector::start(Mood::Takes).await;
    let name = new_database().await;
    let settings = [
        ("LOG_LEVEL", "info,newcycle::http=debug"),
        ("LOG_FORMAT", "json"),
        ("OTEL_SERVICE_NAME", "ledger"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours"),
    ];
    let process = traced(&name, &collector.url, &settings).await;
    create_user(&process.api, TRACE, CALLER).await;

    let request = collector.span("request", |span| span["name"] == "POST /users").await;
    assert_eq!((text(&request, "traceId"), text(&request, "parentSpanId")), (TRACE, CALLER), "{request}");
    // SERVER
    assert_eq!(request["kind"], 2, "{request}");
    let attributes = &request["attributes"];
    assert_eq!(attributes["http.request.method"], "POST");
    assert_eq!(attributes["http.route"], "/users");
    assert_eq!(attributes["url.path"], "/users");
    assert_eq!(attributes["url.scheme"], "http");
    // Integers of 64 bits are strings in this JSON.
    assert_eq!(attributes["http.response.status_code"], "201");
    let id = request["spanId"].as_str().expect("an id");

    let child = async |what: &str, of: &str| {
        let child = collector.span(what, |span| span["name"] == what && span["parentSpanId"] == of).await;
        assert_eq!(text(&child, "traceId"), TRACE, "{child}");
        child
    };
    child("wait for the group commit", id).await;
    let step = child("group commit", id).await;
    let statement = child("INSERT users", text(&step, "spanId")).await;
    assert_eq!(links(&statement), [id], "{statement}");
    assert_eq!(links(&step), [text(&statement, "spanId")], "{step}");
    let within = text(&statement, "spanId");
    let query = collector.span("query", |span| span["parentSpanId"] == within).await;
    assert_eq!(query["attributes"]["db.system.name"], "postgresql", "{query}");

    let sent = &collector.sent()[0];
    assert_eq!(sent.headers["x-tenant"], "ours");
    let body: Value = serde_json::from_slice(&sent.body).expect("JSON");
    let resource = with_attributes(body["resourceSpans"][0]["resource"].clone());
    assert_eq!(resource["attributes"]["service.name"], "ledger", "{resource}");
    assert_eq!(resource["attributes"]["deployment.environment.name"], "test", "{resource}");

    let lines = logged(&name);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let answered: Vec<_> = lines.filter(|line| line["path"] == "/users").collect();
    assert_eq!(answered.len(), 1);
    assert_eq!(answered[0]["span"]["trace_id"], TRACE, "{}", answered[0]);
    assert_eq!(answered[0]["id"], attributes["newcycle.request_id"]);
    stop(process).await;
}

#[tokio::test]
async fn a_read_shows_its_wait_for_a_connection_and_its_query() {
    let collector = Collector::start(Mood::Takes).await;
    let process = traced(&new_database().await, &collector.url, &[]).await;
    let user = process.api.user().await;
    process.api.get(&format!("/users/{user}")).await;
    let request = collector.span("request", |span| span["name"] == "GET /users/{id}").await;
    let id = text(&request, "spanId");
    let below = |span: &Value| span["parentSpanId"] == id;
    collector.span("connection", |span| below(span) && span["name"] == "wait for a connection").await;
    let query = collector.span("query", |span| below(span) && text(span, "name").starts_with("select")).await;
    // CLIENT
    assert_eq!(query["kind"], 3, "{query}");
    let (begin, end) = (text(&query, "startTimeUnixNano"), text(&query, "endTimeUnixNano"));
    assert!(begin < end, "{query}");
    stop(process).await;
}

#[tokio::test]
async fn a_statement_is_linked_to_all_requests_that_it_serves() {
    let collector = Collector::start(Mood::Takes).await;
    let name = new_database().await;
    let process = traced(&name, &collector.url, &[]).await;
    let obstacle = Obstacle::before("users", &name).await;
    let traces: Vec<_> = (1..=5).map(|n| format!("{n:032x}")).collect();
    let database = connect(&name).await;
    let (first, others) = traces.split_first().expect("a trace");
    let others = async {
        // The first is with the database, for which the others wait.
        obstacle.is_met(&database.pool).await;
        let removing = async {
            eventually(|| async {
                let answer = process.api.request(Method::GET, "/metrics").send().await;
                let metrics = answer.map_err(|error| error.to_string())?.text().await.unwrap_or_default();
                let queued = metrics.lines().find(|line| line.contains("waiting") && line.contains("users"));
                if queued.is_some_and(|line| line.ends_with(" 4")) { Ok(()) } else { Err(metrics) }
            })
            .await;
            obstacle.remove().await;
        };
        tokio::join!(join_all(others.iter().map(|trace| create_user(&process.api, trace, CALLER))), removing);
    };
    tokio::join!(create_user(&process.api, first, CALLER), others);

    let statement =
        collector.span("shared statement", |span| span["name"] == "INSERT users" && links(span).len() == 4).await;
    assert_eq!(statement["attributes"]["db.operation.batch.size"], "4");
    stop(process).await;
    let spans = collector.spans();
    let requests: Vec<_> = spans.iter().filter(|span| span["name"] == "POST /users").collect();
    assert_eq!(requests.len(), 5);
    let served: Vec<_> =
        requests.iter().filter(|span| links(&statement).contains(&text(span, "spanId").to_owned())).collect();
    assert_eq!(served.len(), 4, "each is one of the requests");
    for request in served {
        let step =
            spans.iter().find(|span| span["name"] == "group commit" && span["parentSpanId"] == request["spanId"]);
        assert_eq!(links(step.expect("a step")), [text(&statement, "spanId")], "from each there is a way to it");
    }
}

#[tokio::test]
async fn nothing_secret_and_nothing_dull_is_in_a_trace() {
    let collector = Collector::start(Mood::Takes).await;
    let name = new_database().await;
    let database = connect(&name).await;
    let (_, secret) = keys::create(&database.pool, "till", Scopes::ALL, None).await.expect("a key");
    let key = secret.key_text();
    let process = traced(&name, &collector.url, &[]).await;
    let api = process.api.with_key(&key);
    let user = api.user().await;
    api.get(&format!("/users?page_token={key}")).await;
    process.api.request(Method::POST, "/session").json(&json!({"key": &*key})).send().await.expect("an answer");
    api.request(Method::GET, "/livez").send().await.expect("an answer");
    api.request(Method::GET, "/metrics").send().await.expect("an answer");
    // A stream is in it as soon as it has begun.
    let mut stream = api.stream("/statistics/stream?metrics=user-creation", None).await;
    stream.next_named("snapshot").await;
    collector.span("stream", |span| span["name"] == "GET /statistics/stream").await;
    api.get(&format!("/users/{user}")).await;
    stop(process).await;

    let spans = collector.spans();
    for expected in ["POST /users", "GET /users", "POST /session", "GET /users/{id}"] {
        assert!(spans.iter().any(|span| span["name"] == expected), "{expected}");
    }
    for span in &spans {
        let path = text(&span["attributes"], "url.path");
        assert!(!["/livez", "/readyz", "/metrics"].contains(&path), "{span}");
        assert!(span["attributes"].get("url.query").is_none(), "{span}");
    }
    let sent: String = collector.sent().iter().map(|sent| String::from_utf8_lossy(&sent.body).into_owned()).collect();
    let random = key.rsplit('_').next().expect("its last part");
    assert!(!sent.contains(random), "the key");
    assert!(!sent.to_ascii_lowercase().contains("bearer"), "the header");
}

#[tokio::test]
async fn exports_and_data_streams_are_traces_of_their_own_and_sources_hear_nothing_of_it() {
    let collector = Collector::start(Mood::Takes).await;
    let process = traced(&new_database().await, &collector.url, &[("NEWCYCLE_STREAM_NETWORKS", "127.0.0.1")]).await;
    process.api.user().await;
    let export = exports::export(&process.api, &json!({"dataset": "users", "format": "csv"})).await;
    assert_eq!(export["state"], "complete", "{export}");
    let job = collector.span("export", |span| span["name"] == "export").await;
    assert_eq!(job["attributes"]["newcycle.job.id"], export["id"], "{job}");
    assert_eq!(text(&job, "parentSpanId"), "", "{job}");
    collector
        .span("its making", |span| span["name"] == "make an export" && span["parentSpanId"] == job["spanId"])
        .await;

    let source = Source::with(25).await;
    let stream = streams::create(&process.api, streams::cursors(&source)).await;
    streams::fetch(&process.api, &stream).await;
    let run = collector.span("run", |span| span["name"] == "stream").await;
    assert_eq!(run["attributes"]["newcycle.job.id"], stream, "{run}");
    stop(process).await;
    let spans = collector.spans();
    let of_run =
        |name: &str| spans.iter().filter(|span| span["name"] == name && span["parentSpanId"] == run["spanId"]).count();
    assert_eq!(of_run("GET"), 3, "a page each");
    assert_eq!(of_run("store a page"), 3);
    let page =
        spans.iter().find(|span| span["name"] == "GET" && span["parentSpanId"] == run["spanId"]).expect("a page");
    assert_eq!(page["kind"], 3, "{page}");
    assert_eq!(page["attributes"]["server.address"], "127.0.0.1", "{page}");
    assert_eq!(source.asked().len(), 3);
    for asked in source.asked() {
        assert!(asked.headers.get("traceparent").is_none(), "{:?}", asked.headers);
    }
}

#[tokio::test]
async fn a_collector_that_hangs_keeps_nobody_waiting_and_holds_up_no_stop() {
    let collector = Collector::start(Mood::Hangs).await;
    let name = new_database().await;
    // It would be waited for for longer than this test may take.
    let process = traced(&name, &collector.url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")]).await;
    process.api.user().await;
    collector.inner.asked.notified().await;
    // More than fits into the queue.
    for _ in 0..8 {
        join_all((0..100).map(|_| process.api.user())).await;
    }
    let took = stop(process).await;
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(collector.sent().len(), 1);
}

#[tokio::test]
async fn a_collector_that_refuses_is_complained_about_once() {
    let collector = Collector::start(Mood::Refuses).await;
    let name = new_database().await;
    let process = traced(&name, &collector.url, &[]).await;
    while collector.sent().len() < 4 {
        process.api.user().await;
    }
    stop(process).await;
    let log = logged(&name);
    assert_eq!(log.lines().filter(|line| line.contains("WARN")).count(), 1, "{log}");
    assert!(log.contains("traces are lost"), "{log}");
}

#[tokio::test]
async fn a_collector_that_is_not_there_or_not_spoken_to_changes_nothing() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    let collector = Collector::start(Mood::Takes).await;
    for (endpoint, setting) in [
        (nobody.as_str(), ("OTEL_SERVICE_NAME", "ledger")),
        ("no URL", ("OTEL_SERVICE_NAME", "ledger")),
        (collector.url.as_str(), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")),
        (collector.url.as_str(), ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")),
    ] {
        let name = new_database().await;
        let process = traced(&name, endpoint, &[setting]).await;
        process.api.user().await;
        stop(process).await;
        let log = logged(&name);
        assert_eq!(log.lines().filter(|line| line.contains("WARN")).count(), 1, "{log}");
    }
    assert_eq!(collector.sent().len(), 0);
}

#[tokio::test]
async fn whoever_does_not_ask_for_traces_has_none() {
    let collector = Collector::start(Mood::Takes).await;
    for setting in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ] {
        let name = new_database().await;
        let process = traced(&name, &collector.url, &[setting, ("LOG_LEVEL", "info,newcycle::http=debug")]).await;
        create_user(&process.api, TRACE, CALLER).await;
        stop(process).await;
        assert_eq!(collector.sent().len(), 0, "{setting:?}");
        let log = logged(&name);
        assert!(log.contains(r#"path="/users""#), "{log}");
        // Those that are not kept are still the caller's.
        assert_eq!(log.contains("trace_id"), setting.1 == "always_off", "{log}");
    }
}

#[tokio::test]
async fn by_default_traces_are_sent_as_protobuf_and_what_is_left_at_a_stop_is_sent() {
    let collector = Collector::start(Mood::Takes).await;
    let endpoint = format!("{}/v1/traces", collector.url);
    // Nothing would be sent before the test is over.
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ""),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ];
    let process = traced(&new_database().await, "", &settings).await;
    create_user(&process.api, TRACE, CALLER).await;
    assert_eq!(collector.sent().len(), 0);
    stop(process).await;
    let sent = collector.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].headers["content-type"], "application/x-protobuf");
    let contains = |part: &[u8]| sent[0].body.windows(part.len()).any(|window| window == part);
    assert!(contains(&u128::from_str_radix(TRACE, 16).expect("a number").to_be_bytes()));
    assert!(contains(b"POST /users") && contains(b"INSERT users"));
}
