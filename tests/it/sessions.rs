//! Browsers that sign in with a key.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use newcycle::auth::{Door, Scope, Scopes, Secret, Settings, keys};
use reqwest::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::{Api, Events};
use crate::harness::{PATIENCE, Server, new_database};

const READER: [Scope; 2] = [Scope::LedgerRead, Scope::StatisticsRead];

async fn closed() -> (Server, String, Secret) {
    let settings = Settings { door: Door::Closed, ..Settings::default() };
    let server = Server::guarded(&new_database().await, settings).await;
    let (key, secret) =
        keys::create(&server.database.pool, "anna", Scopes::from_iter(READER), None).await.expect("a key");
    (server, key.id, secret)
}

/// Signs in. The whole cookie as it is set, and as browsers send it.
async fn sign_in(server: &Server, secret: &Secret) -> (String, String) {
    let request = server.api.request(Method::POST, "/session").json(&json!({"key": secret.key_text()}));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::CREATED);
    let cookie = response.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    let sent = cookie.split(';').next().expect("a cookie").to_owned();
    (cookie, sent)
}

fn get(server: &Server, path: &str, cookie: &str) -> RequestBuilder {
    server.api.request(Method::GET, path).header(COOKIE, cookie)
}

async fn who(server: &Server, cookie: &str) -> Value {
    Api::send(get(server, "/session", cookie)).await.1
}

async fn ended(mut stream: Events) {
    timeout(PATIENCE, async { while stream.next().await.is_some() {} }).await.expect("the stream ends");
}

#[tokio::test]
async fn whoever_asks_is_told_who_they_are() {
    let (server, _, secret) = closed().await;
    let (status, stranger) = server.api.get("/session").await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({"authentication": "required", "public_statistics": false, "caller": null, "scopes": []});
    assert_eq!(stranger, expected);
    let (_, known) = server.api.with_key(&secret.key_text()).get("/session").await;
    assert_eq!(known["caller"], json!({"name": "anna", "kind": "key", "expires_at": null}));
    assert_eq!(known["scopes"], json!(["ledger:read", "statistics:read"]));
    let (_, open) = Server::start().await.api.get("/session").await;
    assert_eq!(open["authentication"], "open");
    assert_eq!(open["scopes"].as_array().map(Vec::len), Some(Scope::ALL.len()));
}

#[tokio::test]
async fn signing_in_sets_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let (server, _, secret) = closed().await;
    let (cookie, sent) = sign_in(&server, &secret).await;
    let attributes: Vec<_> = cookie.split("; ").skip(1).collect();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(attributes.contains(&attribute), "{attribute}: {cookie}");
    }
    assert!(!cookie.contains(&secret.key_text()[4..]), "the key is not in it");
    let known = who(&server, &sent).await;
    assert_eq!((&known["caller"]["name"], &known["caller"]["kind"]), (&json!("anna"), &json!("session")));
    assert_eq!(Api::send(get(&server, "/users", &sent)).await.0, StatusCode::OK);
    let request = server.api.request(Method::POST, "/users").header(COOKIE, &sent).header(ORIGIN, &server.api.url);
    let request = request.json(&json!({}));
    assert_eq!(Api::send(request).await.0, StatusCode::FORBIDDEN, "a session may what its key may");
}

#[tokio::test]
async fn a_key_that_is_not_good_signs_nobody_in() {
    let (server, id, secret) = closed().await;
    keys::revoke(&server.database.pool, &id).await.expect("it is revoked");
    for (key, status, reason) in [
        (secret.key_text(), StatusCode::UNAUTHORIZED, "revoked"),
        (Secret::generate().expect("random numbers").key_text(), StatusCode::UNAUTHORIZED, "not valid"),
        ("password".to_owned(), StatusCode::UNAUTHORIZED, "begin with nck_"),
    ] {
        let request = server.api.request(Method::POST, "/session").json(&json!({"key": key}));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), status, "{reason}");
        assert!(!response.headers().contains_key(SET_COOKIE));
        let problem: Value = response.json().await.expect("a problem");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{problem}");
    }
    let (status, problem) = server.api.post("/session", json!({"kye": "x"})).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("kye")));
}

#[tokio::test]
async fn signing_out_ends_the_session_and_its_streams_on_every_server() {
    let (server, _, secret) = closed().await;
    let other = Server::guarded(&server.name, Settings { door: Door::Closed, ..Settings::default() }).await;
    let (_, cookie) = sign_in(&server, &secret).await;
    let (_, kept) = sign_in(&server, &secret).await;
    let mut streams = Vec::new();
    for server in [&server, &other] {
        let request = get(server, "/statistics/stream", &cookie);
        let mut stream = Events::new(request.send().await.expect("an answer"));
        stream.next_named("snapshot").await;
        streams.push(stream);
    }
    let request = server.api.request(Method::DELETE, "/session").header(COOKIE, &cookie);
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert!(response.headers()[SET_COOKIE].to_str().is_ok_and(|value| value.contains("Max-Age=0")));
    for stream in streams {
        ended(stream).await;
    }
    for server in [&server, &other] {
        assert_eq!(who(server, &cookie).await["caller"], Value::Null);
        assert_eq!(who(server, &kept).await["caller"]["name"], "anna", "the other one goes on");
    }
    let again = server.api.request(Method::DELETE, "/session").header(COOKIE, &cookie);
    assert_eq!(Api::send(again).await.0, StatusCode::NO_CONTENT, "signing out twice does no harm");
}

#[tokio::test]
async fn a_session_ends_with_its_key_and_with_the_secret_that_it_was_signed_in_with() {
    let (server, id, first) = closed().await;
    let pool = &server.database.pool;
    let (_, with_first) = sign_in(&server, &first).await;
    let (_, second) = keys::rotate(pool, &id, Utc::now() + TimeDelta::hours(1)).await.expect("a new secret");
    let (_, with_second) = sign_in(&server, &second).await;
    assert_eq!(who(&server, &with_first).await["caller"]["name"], "anna", "both secrets are good");
    let request = get(&server, "/statistics/stream", &with_first);
    let mut stream = Events::new(request.send().await.expect("an answer"));
    stream.next_named("snapshot").await;
    let (_, third) = keys::rotate(pool, &id, Utc::now() + TimeDelta::hours(1)).await.expect("a new secret");
    ended(stream).await;
    assert_eq!(who(&server, &with_first).await["caller"], Value::Null);
    assert_eq!(who(&server, &with_second).await["caller"]["name"], "anna");
    let (_, with_third) = sign_in(&server, &third).await;
    let request = get(&server, "/statistics/stream", &with_third);
    let mut stream = Events::new(request.send().await.expect("an answer"));
    stream.next_named("snapshot").await;
    keys::revoke(pool, &id).await.expect("it is revoked");
    ended(stream).await;
    for cookie in [with_second, with_third] {
        assert_eq!(who(&server, &cookie).await["caller"], Value::Null);
    }
}

#[tokio::test]
async fn a_session_lasts_as_long_as_was_said_and_not_longer_than_its_key() {
    let settings = Settings { door: Door::Closed, session_lifetime: Duration::from_secs(3600), ..Settings::default() };
    let server = Server::guarded(&new_database().await, settings).await;
    let in_a_minute = Utc::now() + TimeDelta::minutes(1);
    for (key_ends, expected) in [(None, Utc::now() + TimeDelta::hours(1)), (Some(in_a_minute), in_a_minute)] {
        let (_, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, key_ends).await.expect("a key");
        let (_, cookie) = sign_in(&server, &secret).await;
        let ends = who(&server, &cookie).await["caller"]["expires_at"].as_str().expect("an end").to_owned();
        let ends: chrono::DateTime<Utc> = ends.parse().expect("a moment");
        assert!((ends - expected).abs() < TimeDelta::seconds(50), "{ends} {expected}");
    }
    sqlx::query("update access.sessions set expires_at = now()")
        .execute(&server.database.pool)
        .await
        .expect("an update");
    let (_, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, None).await.expect("a key");
    sign_in(&server, &secret).await;
    let left: i64 = sqlx::query_scalar("select count(*) from access.sessions")
        .fetch_one(&server.database.pool)
        .await
        .expect("a number");
    assert_eq!(left, 1, "those that are over are not kept");
}

#[tokio::test]
async fn the_cookie_is_of_no_use_to_pages_of_other_origins() {
    let (server, _, _) = closed().await;
    let (_, secret) = keys::create(&server.database.pool, "writer", Scopes::ALL, None).await.expect("a key");
    let (_, cookie) = sign_in(&server, &secret).await;
    let host = server.api.url.strip_prefix("http://").expect("a host").to_owned();
    let own = format!("http://{host}");
    for (headers, may) in [
        (vec![("sec-fetch-site", "same-origin"), ("origin", own.as_str())], true),
        (vec![("origin", own.as_str())], true),
        (vec![("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")], false),
        // Another port of this machine is the same site: SameSite=Strict lets its cookies through.
        (vec![("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:9")], false),
        (vec![("origin", "http://127.0.0.1:9")], false),
        (vec![("origin", "null")], false),
        // No browser, and no way to know whose wish this is.
        (vec![], false),
    ] {
        let with = |method: Method, path: &str| {
            let request = server.api.request(method, path).header(COOKIE, &cookie).header(HOST, &host);
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        let (status, _) = Api::send(with(Method::POST, "/users").json(&json!({}))).await;
        assert_eq!(status, if may { StatusCode::CREATED } else { StatusCode::UNAUTHORIZED }, "{headers:?}");
        if !headers.is_empty() {
            let request = with(Method::POST, "/session").json(&json!({"key": secret.key_text()}));
            let status = Api::send(request).await.0;
            assert_eq!(status, if may { StatusCode::CREATED } else { StatusCode::FORBIDDEN }, "{headers:?}");
        }
    }
    let foreign =
        server.api.request(Method::DELETE, "/session").header(COOKIE, &cookie).header(ORIGIN, "https://evil.example");
    assert_eq!(Api::send(foreign).await.0, StatusCode::FORBIDDEN);
    assert_eq!(who(&server, &cookie).await["caller"]["name"], "writer", "nobody else signs anybody out");
}

#[tokio::test]
async fn an_old_cookie_is_no_hindrance_where_nobody_has_to_say_who_they_are() {
    let settings = Settings { door: Door::Closed, public_statistics: true, ..Settings::default() };
    let server = Server::guarded(&new_database().await, settings).await;
    for cookie in ["newcycle-session=nonsense", "newcycle-session=", "other=1"] {
        let request = get(&server, "/statistics/transfers/day", cookie);
        assert_eq!(Api::send(request).await.0, StatusCode::OK, "{cookie}");
    }
}
