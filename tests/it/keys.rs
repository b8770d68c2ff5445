//! Keys from their making to their end, on every server.

use std::process::Stdio;

use chrono::{TimeDelta, Utc};
use newcycle::auth::{Door, KeyError, Scope, Scopes, Secret, Settings, keys};
use reqwest::header::HOST;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::api::{Api, Events};
use crate::harness::{self, PATIENCE, Server, eventually, new_database};

const STREAM: &str = "/statistics/stream?metrics=user-creation";

fn closed() -> Settings {
    Settings { door: Door::Closed, ..Settings::default() }
}

async fn new_key(pool: &PgPool, scopes: Scopes) -> (String, Secret) {
    let (key, secret) = keys::create(pool, "test", scopes, None).await.expect("a key");
    (key.id, secret)
}

/// A stream that has begun.
async fn stream(server: &Server, secret: &Secret) -> Events {
    let mut stream = server.api.with_key(&secret.key_text()).stream(STREAM, None).await;
    stream.next_named("snapshot").await;
    stream
}

/// Reads a stream until it ends, as all do that wait for something.
async fn ended(mut stream: Events) {
    timeout(PATIENCE, async { while stream.next().await.is_some() {} }).await.expect("the stream ends");
}

async fn status(api: &Api) -> StatusCode {
    api.get("/users").await.0
}

#[tokio::test]
async fn a_key_is_good_at_once_on_every_server() {
    let name = new_database().await;
    let (one, other) = (Server::guarded(&name, closed()).await, Server::guarded(&name, closed()).await);
    for _ in 0..5 {
        let (_, secret) = new_key(&one.database.pool, Scopes::ALL).await;
        for server in [&one, &other] {
            assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_its_streams_end_on_every_server() {
    let name = new_database().await;
    let (one, other) = (Server::guarded(&name, closed()).await, Server::guarded(&name, closed()).await);
    let (id, secret) = new_key(&one.database.pool, Scopes::ALL).await;
    let (_, kept) = new_key(&one.database.pool, Scopes::ALL).await;
    let streams = [stream(&one, &secret).await, stream(&other, &secret).await];
    let mut going_on = stream(&other, &kept).await;
    keys::revoke(&one.database.pool, &id).await.expect("it is revoked");
    for stream in streams {
        ended(stream).await;
    }
    for server in [&one, &other] {
        assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::UNAUTHORIZED);
    }
    sqlx::query("insert into users default values").execute(&one.database.pool).await.expect("a user");
    going_on.next_named("update").await;
}

#[tokio::test]
async fn what_an_operator_does_with_psql_counts_as_well() {
    let server = Server::guarded(&new_database().await, closed()).await;
    let (id, secret) = new_key(&server.database.pool, Scopes::ALL).await;
    let open = stream(&server, &secret).await;
    sqlx::query("update access.keys set scopes = '{ledger:write}' where id = $1")
        .bind(&id)
        .execute(&server.database.pool)
        .await
        .expect("an update");
    ended(open).await;
    assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_key_that_is_given_an_end_takes_its_streams_along() {
    let server = Server::guarded(&new_database().await, closed()).await;
    let (id, secret) = new_key(&server.database.pool, Scopes::ALL).await;
    let open = stream(&server, &secret).await;
    keys::expire(&server.database.pool, &id, Some(Utc::now() + TimeDelta::milliseconds(10))).await.expect("an end");
    ended(open).await;
    let (status, problem) = server.api.with_key(&secret.key_text()).get("/users").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("expired")), "{problem}");
    keys::expire(&server.database.pool, &id, None).await.expect("no end");
    eventually(|| async {
        let status = server.api.with_key(&secret.key_text()).get("/users").await.0;
        if status == StatusCode::OK { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_when_the_time_of_its_key_is_over_though_nothing_else_happens() {
    let server = Server::guarded(&new_database().await, closed()).await;
    // On a slow machine the shorter ones may be over before the stream is open.
    for seconds in [1, 5, 25] {
        let ends = Utc::now() + TimeDelta::seconds(seconds);
        let (_, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, Some(ends)).await.expect("a key");
        let request = server.api.with_key(&secret.key_text()).request(Method::GET, STREAM);
        let response = request.header("accept", "text/event-stream").send().await.expect("an answer");
        if response.status() == StatusCode::OK {
            ended(Events::new(response)).await;
            assert!(Utc::now() >= ends, "not before");
            return;
        }
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    panic!("this machine takes 25 seconds to open a stream");
}

#[tokio::test]
async fn a_rotated_key_is_taken_with_both_secrets_for_a_while() {
    let server = Server::guarded(&new_database().await, closed()).await;
    let pool = &server.database.pool;
    let (id, first) = new_key(pool, Scopes::ALL).await;
    let open = stream(&server, &first).await;
    let (_, second) = keys::rotate(pool, &id, Utc::now() + TimeDelta::hours(1)).await.expect("a new secret");
    for secret in [&second, &first] {
        assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::OK);
    }
    // Once more, with an end to the one before: the first had had its time already.
    let with_second = stream(&server, &second).await;
    let (_, third) = keys::rotate(pool, &id, Utc::now()).await.expect("a new secret");
    ended(open).await;
    ended(with_second).await;
    assert_eq!(status(&server.api.with_key(&third.key_text())).await, StatusCode::OK);
    for secret in [&second, &first] {
        assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_key_that_is_not_there_or_is_over_cannot_be_changed() {
    let database = harness::database().await;
    let (id, _) = new_key(&database.pool, Scopes::ALL).await;
    keys::revoke(&database.pool, &id).await.expect("it is revoked");
    let revoked = keys::revoke(&database.pool, &id).await.expect("again").revoked_at;
    assert!(revoked.is_some());
    assert!(matches!(keys::rotate(&database.pool, &id, Utc::now()).await, Err(KeyError::Revoked { .. })));
    assert!(matches!(keys::expire(&database.pool, &id, None).await, Err(KeyError::Revoked { .. })));
    assert!(matches!(keys::revoke(&database.pool, "nobody").await, Err(KeyError::NotFound { .. })));
}

#[tokio::test]
async fn the_database_does_not_know_the_secrets_nor_do_readers_know_the_keys() {
    let database = harness::database().await;
    let (_, secret) = new_key(&database.pool, Scopes::ALL).await;
    let rows: Vec<String> = sqlx::query_scalar("select to_jsonb(k)::text from access.keys k")
        .fetch_all(&database.pool)
        .await
        .expect("rows");
    let text = secret.key_text();
    let hidden = &text[text.len() - 52..];
    assert_eq!(rows.len(), 1);
    assert!(!rows[0].contains(hidden), "{rows:?}");
    let readable: Vec<bool> = sqlx::query_scalar(
        "select has_schema_privilege('newcycle_reader', 'access', 'usage')
            or has_table_privilege('newcycle_reader', c.oid, 'select')
        from pg_class c where relnamespace = 'access'::regnamespace and relkind = 'r'",
    )
    .fetch_all(&database.pool)
    .await
    .expect("privileges");
    assert_eq!(readable, [false; 4], "keys, sessions, their state, the audit");
}

#[tokio::test]
async fn the_first_key_closes_a_server_that_was_open() {
    let server = Server::start().await;
    assert_eq!(status(&server.api).await, StatusCode::OK);
    let mut open = server.api.stream(STREAM, None).await;
    open.next_named("snapshot").await;
    let (id, secret) = new_key(&server.database.pool, Scopes::NONE.with(Scope::LedgerRead)).await;
    ended(open).await;
    assert_eq!(status(&server.api).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::OK);
    keys::revoke(&server.database.pool, &id).await.expect("it is revoked");
    eventually(|| async {
        let status = server.api.with_key(&secret.key_text()).get("/users").await.0;
        if status == StatusCode::UNAUTHORIZED { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(status(&server.api).await, StatusCode::UNAUTHORIZED, "it does not open again");
}

#[tokio::test]
async fn an_open_server_answers_to_the_names_of_this_machine_alone() {
    let server = Server::start().await;
    let port = server.api.url.rsplit_once(':').expect("a port").1.to_owned();
    for (host, is_answered) in [
        (format!("localhost:{port}"), true),
        (format!("LOCALHOST:{port}"), true),
        (format!("app.localhost:{port}"), true),
        ("127.0.0.1".to_owned(), true),
        (format!("127.1.2.3:{port}"), true),
        (format!("[::1]:{port}"), true),
        (format!("rebound.example:{port}"), false),
        (format!("localhost.example:{port}"), false),
        ("192.168.0.1".to_owned(), false),
    ] {
        let request = server.api.request(Method::GET, "/users").header(HOST, &host);
        let expected = if is_answered { StatusCode::OK } else { StatusCode::MISDIRECTED_REQUEST };
        assert_eq!(Api::send(request).await.0, expected, "{host}");
    }
    let open = Server::guarded(&new_database().await, Settings { door: Door::Open, ..Settings::default() }).await;
    let request = open.api.request(Method::GET, "/users").header(HOST, "stats.example");
    assert_eq!(Api::send(request).await.0, StatusCode::OK, "as whoever opened it said");
    let request = open.api.request(Method::GET, "/users").basic_auth("anna", Some("what a proxy asked for"));
    assert_eq!(Api::send(request).await.0, StatusCode::OK, "which is none of its business");
}

fn newcycle(arguments: &[&str], database: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_newcycle"));
    command.args(arguments).env("DATABASE_URL", database).env_remove("PGHOST").env_remove("NEWCYCLE_AUTHENTICATION");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What the program printed: its standard output, what it told people, and whether it did what it was to do.
async fn run(arguments: &[&str], database: &str) -> (String, String, bool) {
    let output = timeout(PATIENCE, newcycle(arguments, database).output()).await.expect("it ends").expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.success())
}

#[tokio::test]
async fn the_command_line_makes_lists_rotates_and_revokes_keys() {
    let name = new_database().await;
    let url = harness::url(&name).await;
    let server = Server::guarded(&name, closed()).await;
    let create = ["keys", "create", "--name", "till 7", "--scopes", "ledger:write, ledger:read", "--expires", "90d"];
    let (key, said, done) = run(&create, &url).await;
    assert!(done, "{said}");
    let key = key.trim_end();
    assert!(Secret::of_key(key).is_some(), "{key:?} is the key and nothing else");
    assert!(said.contains("only time"), "{said}");
    assert_eq!(status(&server.api.with_key(key)).await, StatusCode::OK);

    let (listed, _, _) = run(&["keys", "list"], &url).await;
    let id = newcycle::auth::key_id(key);
    assert!(listed.contains(id) && listed.contains("till 7; ledger:write, ledger:read; expires 20"), "{listed}");
    assert!(!listed.contains(&key[key.len() - 52..]), "the secret is not shown again");
    let (json, _, _) = run(&["keys", "list", "--json"], &url).await;
    let listed: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(listed[0]["scopes"], serde_json::json!(["ledger:write", "ledger:read"]));

    let (rotated, said, _) = run(&["keys", "rotate", id, "--grace", "0s"], &url).await;
    assert!(said.contains("not taken any more"), "{said}");
    assert_eq!(status(&server.api.with_key(rotated.trim_end())).await, StatusCode::OK);
    let (_, said, done) = run(&["keys", "expire", id, "never"], &url).await;
    assert!(done && said.contains("does not expire"), "{said}");
    // By the whole key, as somebody may have found it in a log.
    let (_, said, done) = run(&["keys", "revoke", key], &url).await;
    assert!(done && said.contains("revoked"), "{said}");
    let (listed, said, _) = run(&["keys", "list"], &url).await;
    assert_eq!((listed.as_str(), said.trim_end()), ("", "there are no keys"));
    let (listed, _, _) = run(&["keys", "list", "--all"], &url).await;
    assert!(listed.contains("revoked 20"), "{listed}");
}

#[tokio::test]
async fn the_command_line_says_what_is_wrong() {
    let url = harness::url(&new_database().await).await;
    for (arguments, reason) in [
        (
            vec!["create", "--name", "x", "--scopes", "ledger:read,wirte"],
            "there is no scope \"wirte\"; the scopes are ledger:write, ",
        ),
        (vec!["create", "--name", "x"], "--scopes"),
        (vec!["create", "--name", " ", "--scopes", "admin"], "must not be empty"),
        (vec!["create", "--name", "x", "--scopes", "admin", "--expires", "soon"], "neither a duration"),
        (vec!["create", "--name", "x", "--scopes", "admin", "--expires", "2020-01-01T00:00:00Z"], "over already"),
        (vec!["revoke", "nobody"], "there is no key nobody"),
        (vec!["rotate", "nobody"], "there is no key nobody"),
        (vec!["expire", "nobody", "1d"], "there is no key nobody"),
    ] {
        let (printed, said, done) = run(&[&["keys"], &arguments[..]].concat(), &url).await;
        assert!(!done && printed.is_empty(), "{arguments:?}: {printed}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    let (listed, _, _) = run(&["keys", "list", "--all", "--json"], &url).await;
    assert_eq!(listed.trim_end(), "[]", "nothing was made");
}

#[tokio::test]
async fn a_server_that_others_reach_does_not_start_without_a_key_unless_told_to() {
    let name = new_database().await;
    let url = harness::url(&name).await;
    let serve = ["serve", "--server-host", "0.0.0.0", "--server-port", "0"];
    let (printed, said, done) = run(&serve, &url).await;
    assert!(!done && !printed.contains("ready"), "{printed}");
    assert!(said.contains("newcycle keys create") && said.contains("NEWCYCLE_AUTHENTICATION=off"), "{said}");

    // Told so, or with a key, it does.
    for arguments in [&["--authentication", "off"][..], &["--authentication", "required"], &[]] {
        if arguments.is_empty() {
            new_key(&harness::connect(&name).await.pool, Scopes::ALL).await;
        }
        let mut child = newcycle(&[&serve, arguments].concat(), &url).spawn().expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("it starts").expect("text");
        assert_eq!(first.as_deref(), Some("newcycle is ready"), "{arguments:?}");
        child.kill().await.expect("it ends");
    }
}

#[tokio::test]
async fn it_is_written_down_that_a_key_was_used() {
    let server = Server::guarded(&new_database().await, closed()).await;
    let (_, secret) = new_key(&server.database.pool, Scopes::ALL).await;
    let (_, unused) = new_key(&server.database.pool, Scopes::ALL).await;
    assert_eq!(status(&server.api.with_key(&secret.key_text())).await, StatusCode::OK);
    let pool = server.database.pool.clone();
    server.stop().await;
    for key in keys::list(&pool).await.expect("keys") {
        assert_eq!(key.last_used_at.is_some(), key.id == secret.id(), "{key:?} {}", unused.id());
    }
}

/// Lets nobody connect to a database, or everybody again.
async fn allow_connections(server: &Server, is_allowed: bool) {
    let administrator = harness::connect("postgres").await;
    for statement in [
        format!("alter database {} allow_connections {is_allowed}", server.name),
        format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'", server.name),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&administrator.pool).await.expect("it is done");
    }
    administrator.close().await;
}

#[tokio::test]
async fn while_the_database_is_away_those_who_are_known_stay_known_and_nobody_new_comes_in() {
    let server = Server::guarded(&new_database().await, closed()).await;
    let (id, secret) = new_key(&server.database.pool, Scopes::ALL).await;
    let api = server.api.with_key(&secret.key_text());
    assert_eq!(status(&api).await, StatusCode::OK);
    allow_connections(&server, false).await;
    let (_, session) = api.get("/session").await;
    assert_eq!(session["caller"]["name"], "test", "a key is as good as before");
    let unknown = Secret::generate().expect("random numbers").key_text();
    assert_eq!(status(&server.api.with_key(&unknown)).await, StatusCode::SERVICE_UNAVAILABLE, "nobody can say");
    allow_connections(&server, true).await;
    eventually(|| async {
        keys::revoke(&server.database.pool, &id).await.map_err(|error| error.to_string())?;
        let status = api.get("/session").await.0;
        if status == StatusCode::UNAUTHORIZED { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}
