//! What `/metrics` says of what happens, and that whoever draws it or is woken by it asks for what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use newcycle::auth::{Scope, Scopes, keys};
use newcycle::database::Database;
use newcycle::server::Settings;
use newcycle::tls::Tls;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};
use tempfile::TempDir;

use crate::api::Api;
use crate::client::{Client, STREAM, get};
use crate::exports::start;
use crate::fault_network::before;
use crate::harness::{PATIENCE, Server, connect, eventually, new_database};
use crate::proxy::Network;

/// An answer that does not wait for a database takes much less, one that waits for several much more.
const PROMPTLY: Duration = Duration::from_secs(6);

/// What `/metrics` says.
struct Scrape(String);

impl Scrape {
    async fn of(api: &Api) -> Self {
        let response = api.request(Method::GET, "/metrics").send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        Self(response.text().await.expect("text"))
    }

    /// The figure of that name, with its labels; nothing if there is none.
    fn find(&self, name: &str) -> Option<f64> {
        let value =
            self.0.lines().find_map(|line| line.strip_prefix("newcycle_")?.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    fn figure(&self, name: &str) -> f64 {
        self.find(name).unwrap_or_else(|| panic!("{name} is not in {}", self.0))
    }

    /// All names that a query can ask for, those of figures that there may be included.
    fn names(&self) -> BTreeSet<String> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let of = |(name, kind): (&str, &str)| {
            let ends: &[_] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_count", "_sum"],
                "info" => &["_info"],
                "gauge" => &[""],
                other => panic!("what is a {other}?"),
            };
            ends.iter().map(|end| format!("{name}{end}")).collect::<Vec<_>>()
        };
        types.flat_map(of).collect()
    }
}

#[tokio::test]
async fn refusals_which_are_held_back_on_purpose_are_counted_and_not_timed() {
    let name = new_database().await;
    let database = connect(&name).await;
    let scopes = Scopes::NONE.with(Scope::StatisticsRead);
    let (_, secret) = keys::create(&database.pool, "prometheus", scopes, None).await.expect("a key");
    let server = Server::on(&name).await;
    assert_eq!(server.api.get("/users").await.0, StatusCode::UNAUTHORIZED);
    let api = server.api.with_key(&secret.key_text());
    assert_eq!(api.get("/users").await.0, StatusCode::FORBIDDEN);
    assert_eq!(api.get("/session").await.0, StatusCode::OK);
    let scrape = Scrape::of(&api).await;
    for status in [401, 403] {
        let name = format!("http_requests_total{{method=\"GET\",route=\"/users\",status=\"{status}\"}}");
        assert_eq!(scrape.figure(&name), 1.0);
    }
    let timed = |route: &str| {
        scrape.figure(&format!("http_request_duration_seconds_count{{method=\"GET\",route=\"{route}\"}}"))
    };
    assert_eq!((timed("/users"), timed("/session")), (0.0, 1.0));
}

/// Waits until the figure has that value.
async fn until(api: &Api, name: &str, value: f64) {
    until_holds(api, name, |found| found == value).await;
}

async fn until_holds(api: &Api, name: &str, holds: impl Fn(f64) -> bool) {
    eventually(|| async {
        let found = Scrape::of(api).await.find(name);
        if found.is_some_and(&holds) { Ok(()) } else { Err(format!("{name} is {found:?}")) }
    })
    .await;
}

async fn execute(pool: &PgPool, statement: &'static str) {
    pool.execute(statement).await.expect(statement);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_by_no_word_of_a_client() {
    let server = Server::start().await;
    let api = &server.api;
    for _ in 0..2 {
        api.user().await;
    }
    for n in 0..3 {
        api.get(&format!("/users/{n}")).await;
        api.get(&format!("/made-up/{n}")).await;
        api.get(&format!("/users?made-up={n}")).await;
        let method = Method::from_bytes(format!("MADE-UP-{n}").as_bytes()).expect("a method");
        Api::send(api.request(method, "/users")).await;
    }
    let scrape = Scrape::of(api).await;
    for (labels, count) in [
        (r#"method="POST",route="/users",status="201""#, 2.0),
        (r#"method="GET",route="/users/{id}",status="422""#, 3.0),
        (r#"method="GET",route="unmatched",status="404""#, 3.0),
        (r#"method="other",route="/users",status="405""#, 3.0),
    ] {
        assert_eq!(scrape.figure(&format!("http_requests_total{{{labels}}}")), count, "{labels}");
    }
    assert!(!scrape.0.to_lowercase().contains("made-up"), "{}", scrape.0);
    let labels = r#"method="POST",route="/users""#;
    assert_eq!(scrape.figure(&format!("http_request_duration_seconds_count{{{labels}}}")), 2.0);
    assert!(scrape.figure(&format!("http_request_duration_seconds_sum{{{labels}}}")) > 0.0);
    assert_eq!(scrape.figure(&format!("http_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}}")), 2.0);
}

#[tokio::test]
async fn streams_are_counted_when_they_begin_come_back_and_end_and_why() {
    let server = Server::start().await;
    let api = &server.api;
    let statistics = |name: &str| format!("event_streams_{name}{{kind=\"statistics\"}}");
    let ended = |kind: &str, reason: &str| format!("event_streams_ended_total{{kind=\"{kind}\",reason=\"{reason}\"}}");

    let mut client = Client::connect(&server).await;
    client.send(&get(STREAM)).await;
    client.until("event: snapshot").await;
    let scrape = Scrape::of(api).await;
    assert_eq!(scrape.figure(&statistics("open")), 1.0);
    assert_eq!(scrape.figure(&statistics("opened_total")), 1.0);
    assert_eq!(scrape.figure(&statistics("resumed_total")), 0.0);
    drop(client);
    until(api, &ended("statistics", "client_gone"), 1.0).await;
    assert_eq!(Scrape::of(api).await.figure(&statistics("open")), 0.0);

    let mut events = api.stream(STREAM, Some("what it saw last")).await;
    events.next().await.expect("it goes on");
    let scrape = Scrape::of(api).await;
    assert_eq!(scrape.figure(&statistics("opened_total")), 2.0);
    assert_eq!(scrape.figure(&statistics("resumed_total")), 1.0);

    let (_, export) = start(api, &json!({"dataset": "users", "format": "csv"})).await;
    let path = format!("/exports/{}/events", export["id"].as_str().expect("an id"));
    let mut events_of_export = api.stream(&path, None).await;
    while events_of_export.next().await.is_some() {}
    until(api, &ended("watch", "complete"), 1.0).await;
    assert_eq!(Scrape::of(api).await.figure("event_streams_opened_total{kind=\"watch\"}"), 1.0);

    // The first key closes the door, also for whoever is inside.
    let scopes = Scopes::NONE.with(Scope::StatisticsRead);
    let (_, secret) = keys::create(&server.database.pool, "prometheus", scopes, None).await.expect("a key");
    while events.next().await.is_some() {}
    let api = &api.with_key(&secret.key_text());
    until(api, &ended("statistics", "access_ended"), 1.0).await;
    assert_eq!(Scrape::of(api).await.figure(&ended("statistics", "client_gone")), 1.0);
}

#[tokio::test]
async fn readers_who_do_not_take_what_they_are_sent_are_seen_and_so_is_what_they_miss() {
    let server = Server::start().await;
    let api = &server.api;
    execute(
        &server.database.pool,
        "insert into users (created_at) select now() - n * interval '1 ms' from generate_series(1, 9000) n",
    )
    .await;
    // An array of all buckets after each change, for one who stops to read, and few bytes for one who does not.
    let mut late = Client::connect(&server).await;
    late.send(&get("/statistics/user-creation/millisecond?limit=9000")).await;
    late.until("data: ").await;
    late.until("\n\n").await;
    let mut quick = Client::connect(&server).await;
    quick.send(&get(STREAM)).await;
    quick.until("event: snapshot").await;
    let mut told = 9_000;
    let (slow, skipped) = ("event_streams_slow", "event_streams_skipped_messages_total");
    until(api, slow, 0.0).await;
    let give_up = Instant::now() + PATIENCE;
    while Scrape::of(api).await.figure(slow) == 0.0 {
        assert!(Instant::now() < give_up, "the kernel takes more and more");
        happen(&server, &mut quick, &mut told).await;
    }
    assert_eq!(Scrape::of(api).await.figure(skipped), 0.0);
    for _ in 0..5 {
        happen(&server, &mut quick, &mut told).await;
    }
    assert_eq!(Scrape::of(api).await.figure(slow), 1.0);
    let reading = tokio::spawn(async move {
        loop {
            late.until("\n\n").await;
        }
    });
    // What was skipped is known when it goes on.
    until(api, slow, 0.0).await;
    until_holds(api, skipped, |skipped| skipped >= 4.0).await;
    reading.abort();
}

/// Something happens that a stream of years tells.
async fn happen(server: &Server, quick: &mut Client, told: &mut i64) {
    server.happen().await;
    *told += 1;
    quick.until(&format!("\"count\":{told}")).await;
}

#[tokio::test]
async fn a_lost_connection_is_a_reconnect_and_news_are_timed() {
    let server = Server::start().await;
    let api = &server.api;
    until_holds(api, "notification_lag_seconds_count", |count| count >= 1.0).await;
    let scrape = Scrape::of(api).await;
    assert_eq!(scrape.figure("listener_reconnects_total"), 0.0);
    assert_eq!(scrape.figure("listener_live"), 1.0);
    assert!(scrape.figure("notification_lag_seconds_sum") > 0.0);
    execute(
        &server.database.pool,
        "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'newcycle listener' and datname = current_database()",
    )
    .await;
    until(api, "listener_reconnects_total", 1.0).await;
    until(api, "listener_live", 1.0).await;
}

#[tokio::test]
async fn what_only_the_sweep_finds_is_counted_once_and_what_notifications_tell_is_not() {
    let server = Server::start().await;
    let (api, pool) = (&server.api, &server.database.pool);
    let of_sweeps = |news: &str| format!("sweep_corrections_total{{news=\"{news}\"}}");
    let notifications = |content: &str| format!("notifications_total{{content=\"{content}\"}}");
    assert_eq!(Scrape::of(api).await.figure(&of_sweeps("none")), 0.0);
    execute(pool, "begin; set local newcycle.notify = off; insert into users default values; commit").await;
    until(api, &of_sweeps("none"), 1.0).await;

    let users = 20.0;
    for _ in 0..20 {
        api.user().await;
    }
    until(api, &notifications("changes"), users).await;
    let scrape = Scrape::of(api).await;
    let corrections = scrape.figure(&of_sweeps("none")) + scrape.figure(&of_sweeps("some"));
    // A sweep may see what was committed a moment before its notification comes.
    assert!(corrections < 1.0 + users / 2.0, "{corrections}");

    execute(pool, "insert into users (created_at) select now() - n * interval '1 s' from generate_series(1, 500) n")
        .await;
    until(api, &notifications("resync"), 1.0).await;
    // It was said that there are some, so it is as it should be that a sweep found them.
    until_holds(api, &of_sweeps("some"), |found| (500.0..500.0 + users).contains(&found)).await;
    execute(pool, "notify item_creation, 'what?'").await;
    until(api, &notifications("unreadable"), 1.0).await;
    let quietly = Scrape::of(api).await.figure(&of_sweeps("none"));
    assert!(quietly < 1.0 + users / 2.0, "{quietly}");
}

#[tokio::test]
async fn what_waits_in_the_database_is_told() {
    let mut settings = Settings::default();
    settings.streams.stream_workers = 0;
    let server = Server::with_settings(settings).await;
    let (api, pool) = (&server.api, &server.database.pool);
    let scrape = Scrape::of(api).await;
    assert_eq!(scrape.figure("database_up"), 1.0);
    assert_eq!(scrape.figure("database_figures_complete"), 1.0);
    assert_eq!(scrape.figure("jobs{kind=\"stream\",state=\"due\"}"), 0.0);
    assert_eq!(scrape.figure("jobs_oldest_due_seconds{kind=\"stream\"}"), 0.0);
    execute(
        pool,
        "insert into jobs.queue (id, kind, due_at, held) values
            (gen_random_uuid(), 'stream', now() - interval '90 s', false),
            (gen_random_uuid(), 'stream', now() + interval '90 s', true),
            (gen_random_uuid(), 'stream', now() + interval '90 s', false),
            (gen_random_uuid(), 'stream', 'infinity', false);
        insert into jobs.exports (dataset, format, compression, state, finished_at, reason)
            values ('users', 'csv', 'none', 'failed', '2026-01-01T00:00:00Z', 'why');
        insert into jobs.streams (name, source, interval_seconds, desired, state, next_run_at)
            values ('late', '{}', 60, 'running', 'waiting', now() - interval '1 h'),
                ('not wanted', '{}', 60, 'stopped', 'stopped', null);
        insert into jobs.batches (stream_id, number, state, finished_at)
            select id, 1, 'complete', '2026-01-01T00:00:00Z' from jobs.streams where name = 'late';
        insert into jobs.batches (stream_id, number, state, finished_at)
            select id, 2, 'failed', now() from jobs.streams where name = 'late';
        update jobs.streams set latest_batch = 1 where name = 'late';
        insert into jobs.dead_letters (stream_id, batch, key, record, reason, state)
            select id, 1, letter, '{}', 'why', letter
            from jobs.streams, unnest(array['dead', 'retrying']) as letter where name = 'late'",
    )
    .await;
    until(api, "jobs{kind=\"stream\",state=\"due\"}", 1.0).await;
    join_all((0..50).map(|_| Scrape::of(api))).await;
    let asking: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity
        where application_name = 'newcycle metrics' and datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .expect("a number");
    assert_eq!(asking, 1, "many who ask are one for the database");
    let scrape = Scrape::of(api).await;
    for state in ["running", "scheduled", "stopped"] {
        assert_eq!(scrape.figure(&format!("jobs{{kind=\"stream\",state=\"{state}\"}}")), 1.0, "{state}");
    }
    assert!((90.0..900.0).contains(&scrape.figure("jobs_oldest_due_seconds{kind=\"stream\"}")));
    assert_eq!(scrape.figure("exports{state=\"failed\"}"), 1.0);
    assert_eq!(scrape.figure("exports_last_finished_timestamp_seconds{state=\"failed\"}"), 1_767_225_600.0);
    assert_eq!(scrape.figure("data_streams{state=\"waiting\"}"), 1.0);
    assert_eq!(scrape.figure("data_streams{state=\"stopped\"}"), 1.0);
    assert_eq!(scrape.figure("dead_letters{state=\"dead\"}"), 1.0);
    assert_eq!(scrape.figure("dead_letters{state=\"retrying\"}"), 1.0);
    let id: String = sqlx::query_scalar("select id::text from jobs.streams where name = 'late'")
        .fetch_one(pool)
        .await
        .expect("the stream");
    let of_stream = |name: &str| scrape.figure(&format!("data_stream_{name}{{stream=\"{id}\"}}"));
    assert!((3_600.0..4_500.0).contains(&of_stream("overdue_seconds")));
    assert_eq!(of_stream("failing"), 1.0);
    assert_eq!(of_stream("last_complete_timestamp_seconds"), 1_767_225_600.0);
    assert_eq!(scrape.0.matches("newcycle_data_stream_failing{").count(), 1, "nobody waits for those that are stopped");
}

#[tokio::test]
async fn what_was_folded_and_what_was_not_is_told() {
    let server = Server::start().await;
    let (api, pool) = (&server.api, &server.database.pool);
    until_holds(api, "statistics_fold_last_success_timestamp_seconds", |at| at > 1.7e9).await;
    api.user().await;
    until(api, "statistics_fold_deltas_total", 1.0).await;
    until(api, "statistics_unfolded_deltas", 0.0).await;
    let mut held = pool.begin().await.expect("a transaction");
    held.execute("select from statistics.state for update").await.expect("the row");
    api.user().await;
    until(api, "statistics_unfolded_deltas", 1.0).await;
    held.rollback().await.expect("it is given back");
    until(api, "statistics_fold_deltas_total", 2.0).await;
}

#[tokio::test]
async fn a_database_that_is_away_or_silent_keeps_nobody_from_knowing() {
    let name = new_database().await;
    let (proxy, url) = before(&name, "127.0.0.1").await;
    let database = Database::connect(url.parse().expect("a URL"), 16).await.expect("the database answers");
    let server = Server::with(&name, database).await;
    let api = &server.api;
    for network in [Network::Cut, Network::Silent, Network::Cut, Network::Silent] {
        until(api, "database_up", 1.0).await;
        assert!(Scrape::of(api).await.find("dead_letters{state=\"dead\"}").is_some());
        proxy.set(network);
        let start = Instant::now();
        until(api, "database_up", 0.0).await;
        let scrapes = join_all((0..20).map(|_| Scrape::of(api))).await;
        assert!(start.elapsed() < PROMPTLY, "{network:?}: it took {:?}", start.elapsed());
        for scrape in scrapes {
            assert_eq!(scrape.figure("database_up"), 0.0);
            assert_eq!(scrape.figure("database_figures_complete"), 0.0);
            assert_eq!(scrape.find("dead_letters{state=\"dead\"}"), None, "nobody knows");
            assert_eq!(scrape.figure("event_streams_open{kind=\"statistics\"}"), 0.0);
        }
        until(api, "listener_live", 0.0).await;
        proxy.set(Network::Fine);
    }
}

#[tokio::test]
async fn figures_that_take_too_long_are_missing_and_the_database_is_there() {
    let server = Server::start().await;
    let api = &server.api;
    let mut held = server.database.pool.begin().await.expect("a transaction");
    held.execute("lock table jobs.dead_letters in access exclusive mode").await.expect("a lock");
    until(api, "database_figures_complete", 0.0).await;
    let scrape = Scrape::of(api).await;
    assert_eq!(scrape.figure("database_up"), 1.0);
    assert_eq!(scrape.find("jobs_oldest_due_seconds{kind=\"stream\"}"), None);
    held.rollback().await.expect("it is given back");
    until(api, "database_figures_complete", 1.0).await;
}

#[tokio::test]
async fn requests_that_get_no_connection_are_counted() {
    let name = new_database().await;
    let database = connect(&name).await;
    let few =
        Database::connect(database.primary.connector().config().clone().into(), 1).await.expect("the database answers");
    let server = Server::with(&name, few).await;
    let api = &server.api;
    let mut held = database.pool.begin().await.expect("a transaction");
    held.execute("lock table users in access exclusive mode").await.expect("a lock");
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.get("/users").await }
    });
    until(api, "database_idle_connections{pool=\"requests\"}", 0.0).await;
    let (status, _) = api.get("/base-items").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let scrape = Scrape::of(api).await;
    assert_eq!(scrape.figure("database_pool_timeouts_total"), 1.0);
    assert_eq!(scrape.figure("database_connections{pool=\"requests\"}"), 1.0);
    assert_eq!(scrape.figure("database_max_connections{pool=\"requests\"}"), 1.0);
    assert_eq!(scrape.figure("database_up"), 1.0, "whoever asks how it is takes no connection from others");
    held.rollback().await.expect("it is given back");
    assert_eq!(waiting.await.expect("no panic").0, StatusCode::OK);
}

#[tokio::test]
async fn connections_are_counted_and_so_are_those_that_find_no_room() {
    let mut settings = Settings::default();
    settings.connections.max_connections = "2".parse().ok();
    let server = Server::with_settings(settings).await;
    // One, which is kept, is the one that asks.
    let api = &server.api;
    until(api, "connections", 1.0).await;
    assert_eq!(Scrape::of(api).await.figure("max_connections"), 2.0);
    let mut second = Client::connect(&server).await;
    second.send(&get(STREAM)).await;
    second.until("event: snapshot").await;
    assert_eq!(Scrape::of(api).await.figure("connections"), 2.0);
    let refused = Client::connect(&server).await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert_eq!(Scrape::of(api).await.figure("connections_refused_total{limit=\"all\"}"), 1.0);
}

#[tokio::test]
async fn the_process_and_its_version_are_told() {
    let server = Server::start().await;
    let scrape = Scrape::of(&server.api).await;
    assert_eq!(scrape.figure(&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    let of_process = |name: &str| {
        let line =
            scrape.0.lines().find_map(|line| line.strip_prefix("process_")?.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}")).parse::<f64>().expect("a number")
    };
    let now = chrono::Utc::now().timestamp() as f64;
    assert!((now - 3_600.0..now + 60.0).contains(&of_process("start_time_seconds")));
    assert!(of_process("cpu_seconds_total") > 0.0);
    assert!(of_process("resident_memory_bytes") > 1e6);
    assert!((5.0..of_process("max_fds")).contains(&of_process("open_fds")));
}

/// A server that tells everything there is to tell: one with TLS.
async fn with_certificate(directory: &TempDir) -> (Server, f64) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    parameters.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let files = ["certificate.pem", "key.pem"].map(|name| directory.path().join(name));
    std::fs::write(&files[0], certificate.pem()).expect("a file");
    std::fs::write(&files[1], key.serialize_pem()).expect("a file");
    let [certificate, key] = files;
    let mut settings = Settings::default();
    settings.tls = Some(Tls::load(certificate, key).expect("a good pair"));
    (Server::with_settings(settings).await, 2_208_988_800.0)
}

#[tokio::test]
async fn whoever_draws_figures_or_is_woken_by_them_asks_for_some_that_there_are() {
    let directory = TempDir::new().expect("a directory");
    let (server, expiry) = with_certificate(&directory).await;
    let scrape = Scrape::of(&server.api).await;
    assert_eq!(scrape.figure("tls_certificate_expiry_timestamp_seconds"), expiry);
    let mut names = scrape.names();
    // Prometheus' own.
    names.insert("up".to_owned());

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let dashboard: Value = serde_json::from_str(&read("ops/grafana/newcycle.json")).expect("JSON");
    let alerts = read("ops/prometheus/alerts.yml");
    for (file, text) in [("the dashboard", queries(&dashboard)), ("the alerts", alerts.clone())] {
        let asked: BTreeSet<_> = names_in(&text).collect();
        assert!(asked.len() > 20, "{file} asks for {asked:?}");
        let unknown: Vec<_> = asked.iter().filter(|name| !names.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}, of which nothing is told");
    }

    let fields = |name: &str| {
        let fields = alerts.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(name));
        fields.map(|value| value.trim().to_owned()).collect::<Vec<_>>()
    };
    let guide = read("docs/operations.md");
    let (_, sections) = guide.split_once("\n## Alerts\n").expect("the alerts' chapter");
    let sections = sections.split_once("\n## ").map_or(sections, |(chapter, _)| chapter);
    let told: Vec<_> = sections.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    let woken = fields("alert:");
    assert!(!woken.is_empty());
    assert_eq!(told, woken, "each alert has its section, in the same order, and no other has one");
    let links: Vec<_> = fields("runbook_url:")
        .iter()
        .filter_map(|link| Some(link.split_once("docs/operations.md#")?.1.to_owned()))
        .collect();
    let anchors: Vec<_> = woken.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(links, anchors, "each alert leads to its section");
}

/// Every query in a dashboard, one a line.
fn queries(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(values) => text.extend(values.iter().map(queries)),
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().collect();
            for (name, value) in fields {
                match value {
                    Value::String(query) if matches!(name.as_str(), "expr" | "query" | "definition") => {
                        text.push_str(query);
                        text.push('\n');
                    }
                    other => text.push_str(&queries(other)),
                }
            }
        }
        _ => {}
    }
    text
}

/// The names of figures in a text.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("newcycle_") || word.starts_with("process_"))
}
