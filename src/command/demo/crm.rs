//! `newcycle demo --crm`: a made-up CRM of another company, for a first data stream.
//!
//! It has assets of a few models, which customers have on loan. As time goes by they change hands.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::random::Random;
use super::story::KINDS;
use crate::command::{CommandError, print};

/// What a client has to send as its bearer token: there is nothing to protect, but it shows how that is done.
const TOKEN: &str = "demo";
const ASSETS: usize = 240;
const CUSTOMERS: usize = 40;
const LARGEST_PAGE: usize = 100;
/// A client that asks after days should not wait until all of them have been made up.
const MOST_CHANGES: f64 = 10_000.0;

struct Crm {
    random: Random,
    assets: Vec<Asset>,
    changed_at: Instant,
    changes_a_second: f64,
}

struct Asset {
    /// Who has it, and since when.
    customer: Option<(usize, DateTime<Utc>)>,
}

#[derive(Deserialize)]
struct Wanted {
    limit: Option<usize>,
    after: Option<usize>,
}

impl Crm {
    fn new(mut random: Random, changes_a_second: f64, now: DateTime<Utc>) -> Self {
        let lend = |_| {
            let days = TimeDelta::seconds(i64::try_from(random.below(90 * 86_400)).unwrap_or(0));
            let customer = (random.unit() < 0.8).then(|| (random.below(CUSTOMERS), now - days));
            Asset { customer }
        };
        let assets = (0..ASSETS).map(lend).collect();
        Self { random, assets, changed_at: Instant::now(), changes_a_second }
    }

    /// Makes up what has happened since it was looked last.
    fn catch_up(&mut self, now: DateTime<Utc>) {
        let passed = self.changed_at.elapsed().as_secs_f64();
        let due = (passed * self.changes_a_second).min(MOST_CHANGES).floor();
        if due < 1.0 {
            return;
        }
        self.changed_at = Instant::now();
        let mut ago = due;
        while ago >= 1.0 {
            ago -= 1.0;
            let passed = Duration::try_from_secs_f64(ago / self.changes_a_second).unwrap_or_default();
            let moment = now - TimeDelta::from_std(passed).unwrap_or_default();
            let asset = self.random.below(ASSETS);
            self.assets[asset].customer = Some((self.random.below(CUSTOMERS), moment));
        }
    }

    /// Assets by their numbers, from there on.
    fn page(&self, begin: usize, limit: usize) -> Value {
        let results: Vec<_> = self.assets.iter().enumerate().skip(begin).take(limit).map(|(number, asset)| {
            let model = number % KINDS.len();
            json!({
                "id": format!("A-{number:04}"),
                "model": {"sku": format!("M-{model:02}"), "name": KINDS[model]},
                "customer": asset.customer.map(|(customer, _)| json!({"email": format!("customer-{customer:02}@example.com")})),
                "since": asset.customer.map(|(_, since)| since.to_rfc3339_opts(SecondsFormat::Millis, true)),
            })
        }).collect();
        let end = begin + results.len();
        let next = (end < self.assets.len()).then(|| json!({"after": end.to_string()}));
        json!({"results": results, "paging": {"next": next}})
    }
}

/// Serves it until the stop.
pub(super) async fn serve(
    port: u16,
    random: Random,
    changes_a_second: f64,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let crm = Crm::new(random, changes_a_second, Utc::now());
    let router = Router::new().route("/assets", get(assets)).with_state(Arc::new(Mutex::new(crm)));
    print(&format!("a CRM is on http://{}/assets, for the bearer token {TOKEN}", listener.local_addr()?));
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((socket, _)) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone());
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        connections.spawn(builder.serve_connection(TokioIo::new(socket), service));
        while connections.try_join_next().is_some() {}
    }
    Ok(())
}

async fn assets(State(crm): State<Arc<Mutex<Crm>>>, headers: HeaderMap, Query(wanted): Query<Wanted>) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if given != Some(TOKEN) {
        let message = format!("send Authorization: Bearer {TOKEN}");
        return (StatusCode::UNAUTHORIZED, Json(json!({"message": message}))).into_response();
    }
    let Ok(mut crm) = crm.lock() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    crm.catch_up(Utc::now());
    let limit = wanted.limit.unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE);
    Json(crm.page(wanted.after.unwrap_or(0), limit)).into_response()
}
