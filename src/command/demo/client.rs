//! What the demo asks of a server.

use reqwest::Method;
use serde::Deserialize;
use uuid::Uuid;

use crate::command::client::{Failure, Server};

/// What became of a bulk request.
#[derive(Debug, Deserialize)]
pub(super) struct BulkAnswer {
    pub(super) inserted: u64,
    pub(super) unchanged: u64,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<R> {
    pub(super) data: Vec<R>,
}

/// A user or an item, as far as the demo wants to know.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) base_item_id: Option<Uuid>,
}

impl Server {
    /// Whether it is ready.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        self.send(self.request(Method::GET, "/readyz")).await.map(drop)
    }

    /// The newest rows.
    pub(super) async fn newest(&self, path: &str) -> Result<Page<Row>, Failure> {
        self.ask(self.request(Method::GET, &format!("{path}?page_size=1000"))).await
    }

    /// Creates one row.
    pub(super) async fn create(&self, path: &str, body: &serde_json::Value) -> Result<(), Failure> {
        // The connection is only used again when the answer has been read.
        self.ask::<serde::de::IgnoredAny>(self.request(Method::POST, path).json(body)).await.map(drop)
    }

    /// Creates those that are new.
    pub(super) async fn create_all(&self, path: &str, bodies: &[serde_json::Value]) -> Result<BulkAnswer, Failure> {
        self.ask(self.request(Method::POST, &format!("{path}?skip_rejected=true")).json(bodies)).await
    }
}
