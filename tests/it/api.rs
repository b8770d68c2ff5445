//! A small client of the REST interface and its streams.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{PATIENCE, eventually};

#[derive(Clone)]
pub struct Api {
    pub url: String,
    client: reqwest::Client,
    key: Option<String>,
}

/// A status, and the body as JSON (null if it is none).
pub type Answer = (StatusCode, Value);

impl Api {
    pub fn new(url: String) -> Self {
        // Certificates are made for the run; tests about them look at them themselves.
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build();
        Self { url, client: client.expect("a client"), key: None }
    }

    /// The same, for somebody who has this key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn send(request: RequestBuilder) -> Answer {
        // A stream where an answer was expected would never end.
        let response = request.timeout(PATIENCE).send().await.expect("the server answers");
        let status = response.status();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::PUT, path).json(&body)).await
    }

    /// Creates something and returns its id.
    pub async fn create(&self, path: &str, body: Value) -> String {
        let (status, row) = self.post(path, body).await;
        assert_eq!(status, StatusCode::CREATED, "{row}");
        row["id"].as_str().expect("an id").to_owned()
    }

    pub async fn base_item(&self) -> String {
        self.create("/base-items", json!({"description": "chair"})).await
    }

    pub async fn user(&self) -> String {
        self.create("/users", json!({})).await
    }

    pub async fn item(&self, base_item: &str) -> String {
        self.create("/items", json!({"base_item_id": base_item})).await
    }

    pub async fn until_ready(&self) {
        eventually(|| async {
            let response = self.request(Method::GET, "/readyz").send().await.map_err(|error| error.to_string())?;
            if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap_or_default()) }
        })
        .await;
    }

    /// Opens a stream.
    pub async fn stream(&self, path: &str, last_id: Option<&str>) -> Events {
        let mut request = self.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.expect("the server answers");
        assert_eq!(response.status(), StatusCode::OK);
        Events::new(response)
    }
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Empty for unnamed ones.
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

/// The events of a response, as `EventSource` would see them.
pub struct Events {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

impl Events {
    pub fn new(response: Response) -> Self {
        Self { body: response.bytes_stream().boxed(), buffer: Vec::new() }
    }

    /// The next event; nothing when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        timeout(PATIENCE, self.read()).await.expect("an event in time")
    }

    /// The next event with that name.
    pub async fn next_named(&mut self, name: &str) -> Event {
        self.next_where(|event| event.name == name).await
    }

    /// The next event of which this holds. Heartbeats alone do not keep it waiting.
    pub async fn next_where(&mut self, holds: impl Fn(&Event) -> bool) -> Event {
        let find = async {
            loop {
                let event = self.read().await.expect("the stream goes on");
                if holds(&event) {
                    return event;
                }
            }
        };
        timeout(PATIENCE, find).await.expect("the event in time")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(std::str::from_utf8(&block).expect("UTF-8")) {
                    return Some(event);
                }
            }
            self.buffer.extend_from_slice(&self.body.next().await?.ok()?);
        }
    }
}

/// A block without data (a comment, `retry`) is no event.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event { name: String::new(), id: None, data: Value::Null };
    let mut has_data = false;
    for (field, value) in block.lines().filter_map(|line| line.split_once(": ")) {
        match field {
            "event" => event.name = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => {
                has_data = true;
                event.data = serde_json::from_str(value).expect("JSON");
            }
            _ => {}
        }
    }
    has_data.then_some(event)
}

/// What a page would show: the newest value of every bucket, per metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub counts: BTreeMap<String, BTreeMap<String, i64>>,
    pub status: String,
    pub last_id: Option<String>,
}

impl View {
    pub fn take(&mut self, event: &Event) {
        if event.id.is_some() {
            self.last_id.clone_from(&event.id);
        }
        let metric = || event.data["metric"].as_str().expect("a metric").to_owned();
        match event.name.as_str() {
            "snapshot" => {
                self.counts.insert(metric(), buckets(&event.data["buckets"]));
            }
            "update" => self.counts.entry(metric()).or_default().extend(buckets(&event.data["buckets"])),
            "status" => event.data["status"].as_str().expect("a status").clone_into(&mut self.status),
            "heartbeat" => {}
            other => panic!("unknown event {other:?}"),
        }
    }

    pub fn total(&self, metric: &str) -> i64 {
        self.counts.get(metric).map_or(0, |buckets| buckets.values().sum())
    }
}

/// `[{time, count}]` as a map; a time may come once only.
pub fn buckets(list: &Value) -> BTreeMap<String, i64> {
    let list = list.as_array().expect("an array");
    let map: BTreeMap<_, _> = list
        .iter()
        .map(|bucket| (bucket["time"].as_str().expect("a time").to_owned(), bucket["count"].as_i64().expect("a count")))
        .collect();
    assert_eq!(map.len(), list.len(), "every bucket once: {list:?}");
    map
}
