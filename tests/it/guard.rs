//! What the guard does before any handler: tokens, rate limits, origins; and what browsers are told.

use chrono::Utc;
use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use newcycle::auth::{self, Door, Scope, Scopes, TokenVerifier, keys};
use newcycle::server::Settings;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::Api;
use crate::harness::{PATIENCE, Server, eventually, new_database};
use crate::identity_provider::{Provider, Signer, claims, document};

const STREAM: &str = "/statistics/stream?metrics=user-creation";

async fn server(door: Door, change: impl FnOnce(&mut Settings)) -> Server {
    let mut settings = Settings::default();
    change(&mut settings);
    let auth = auth::Settings { door, public_statistics: true, ..auth::Settings::default() };
    Server::limited(&new_database().await, auth, settings).await
}

async fn key(server: &Server) -> Api {
    let (_, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, None).await.expect("a key");
    server.api.with_key(&secret.key_text())
}

async fn get(api: &Api, path: &str) -> Response {
    api.request(Method::GET, path).send().await.expect("an answer")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("{name} in {headers:?}")).to_str().expect("text")
}

#[tokio::test]
async fn a_token_of_the_identity_provider_is_as_good_as_a_key() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(document(&[&signer])).await;
    let tokens = TokenVerifier::new(&provider.settings()).expect("settings");
    let auth = auth::Settings { door: Door::Closed, tokens, ..auth::Settings::default() };
    let server = Server::guarded(&new_database().await, auth).await;
    let api = |changes: Value| server.api.with_key(&signer.sign(&claims(&changes)));
    let reader = api(json!({"scope": "openid ledger:read"}));
    assert_eq!(reader.get("/users").await.0, StatusCode::OK);
    let (status, problem) = reader.post("/users", json!({})).await;
    assert_eq!((status, &problem["required_scope"]), (StatusCode::FORBIDDEN, &json!("ledger:write")));
    let (_, session) = reader.get("/session").await;
    assert_eq!((&session["caller"]["name"], &session["caller"]["kind"]), (&json!("alice"), &json!("token")));
    let (status, problem) = api(json!({"exp": Utc::now().timestamp() - 3_600})).get("/users").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("expired")), "{problem}");
    let stranger = Signer::new("one", Algorithm::ES256);
    let (status, problem) = server.api.with_key(&stranger.sign(&claims(&json!({})))).get("/users").await;
    assert_eq!((status, &problem["detail"]), (StatusCode::UNAUTHORIZED, &json!("This is not a valid token")));
    // A key is one as before.
    assert_eq!(key(&server).await.get("/users").await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_streams_of_a_token_end_with_it() {
    let signer = Signer::new("one", Algorithm::ES256);
    let provider = Provider::start(document(&[&signer])).await;
    let tokens = TokenVerifier::new(&provider.settings()).expect("settings");
    let auth = auth::Settings { door: Door::Closed, tokens, ..auth::Settings::default() };
    let server = Server::guarded(&new_database().await, auth).await;
    // Over already, but within what clocks may differ: such a token still opens a stream, which ends at once.
    for (exp, ends) in [(Utc::now().timestamp() - 5, true), (Utc::now().timestamp() + 600, false)] {
        let token = signer.sign(&claims(&json!({"scope": "statistics:read", "exp": exp})));
        let mut stream = server.api.with_key(&token).stream(STREAM, None).await;
        if ends {
            timeout(PATIENCE, async { while stream.next().await.is_some() {} }).await.expect("the stream ends");
        } else {
            stream.next_named("snapshot").await;
        }
    }
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again_and_others_are_answered() {
    let server = server(Door::Closed, |it| it.http.rates.rate_limit_per_key = "5/h".parse().expect("a rate")).await;
    let (flooder, other) = (key(&server).await, key(&server).await);
    let first = get(&flooder, "/users").await;
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(text(first.headers(), "ratelimit-policy"), r#""key";q=5;w=3600"#);
    assert!(text(first.headers(), "ratelimit").starts_with(r#""key";r=4;t="#), "{:?}", first.headers());
    let answers = join_all((0..40).map(|_| get(&flooder, "/users"))).await;
    let allowed = answers.iter().filter(|answer| answer.status() == StatusCode::OK).count();
    assert_eq!(allowed, 4, "and not one more");
    for answer in answers.iter().filter(|answer| answer.status() != StatusCode::OK) {
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = text(answer.headers(), "retry-after").parse().expect("seconds");
        assert!((1..=720).contains(&wait), "a fifth of an hour at most: {wait}");
        assert_eq!(text(answer.headers(), "ratelimit"), format!(r#""key";r=0;t={wait}"#));
        assert_eq!(text(answer.headers(), "content-type"), "application/problem+json");
    }
    // Whoever it is that floods, by whatever route, the others have their own.
    assert_eq!(get(&flooder, STREAM).await.status(), StatusCode::TOO_MANY_REQUESTS);
    for _ in 0..5 {
        assert_eq!(get(&other, "/users").await.status(), StatusCode::OK);
    }
    let figures = server.api.request(Method::GET, "/livez").send().await.expect("an answer");
    assert_eq!(figures.status(), StatusCode::OK, "health checks are not counted");
    assert!(!figures.headers().contains_key("ratelimit"));
}

#[tokio::test]
async fn an_address_has_so_many_requests_whoever_they_are_from() {
    let server = server(Door::Closed, |it| {
        it.http.rates.rate_limit_per_address = "3/h".parse().expect("a rate");
        it.http.rates.trusted_proxies = "127.0.0.1".parse().expect("a proxy");
    })
    .await;
    let key = key(&server).await;
    let from =
        |api: &Api, address: &str| api.request(Method::GET, "/users").header("x-forwarded-for", address.to_owned());
    let mut statuses = Vec::new();
    for api in [&key, &server.api, &key, &key] {
        statuses.push(Api::send(from(api, "192.0.2.1")).await.0.as_u16());
    }
    assert_eq!(statuses, [200, 401, 200, 429]);
    assert_eq!(Api::send(from(&key, "192.0.2.2")).await.0, StatusCode::OK, "another address");
    // What the client itself said of where it comes from stands to the left of what the proxy heard.
    assert_eq!(Api::send(from(&key, "192.0.2.3, 192.0.2.1")).await.0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn behind_a_trusted_proxy_that_speaks_tls_the_cookie_is_for_tls_only() {
    for (proxies, is_secure) in [("127.0.0.1", true), ("", false)] {
        let server = server(Door::Closed, |it| it.http.rates.trusted_proxies = proxies.parse().expect("proxies")).await;
        let (_, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, None).await.expect("a key");
        let request = server.api.request(Method::POST, "/session").header("x-forwarded-proto", "https");
        let response = request.json(&json!({"key": secret.key_text()})).send().await.expect("an answer");
        let cookie = text(response.headers(), "set-cookie").to_owned();
        assert_eq!(cookie.contains("; Secure"), is_secure, "{cookie}");
        assert_eq!(cookie.starts_with("__Host-"), is_secure, "{cookie}");
        let sent = cookie.split(';').next().expect("a cookie").to_owned();
        let (_, session) = Api::send(server.api.request(Method::GET, "/session").header("cookie", sent)).await;
        assert_eq!(session["caller"]["name"], "x");
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_use_the_interface_and_no_others() {
    let server = server(Door::Closed, |it| {
        it.http.cors.cors_origins = "https://app.example,https://other.example".parse().expect("origins");
    })
    .await;
    let preflight = async |origin: &str| {
        let request = server.api.request(Method::OPTIONS, "/users").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "authorization,content-type").send().await.expect("an answer")
    };
    let allowed = preflight("https://app.example").await;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(text(allowed.headers(), "access-control-allow-origin"), "https://app.example");
    assert!(text(allowed.headers(), "access-control-allow-headers").contains("authorization"));
    assert!(!allowed.headers().contains_key("access-control-allow-credentials"), "the cookie is not for them");
    for origin in ["https://evil.example", "http://app.example", "https://app.example.evil.example", "null"] {
        assert!(!preflight(origin).await.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    // A refusal can be read as well, and what it says of limits.
    let request = server.api.request(Method::GET, "/users").header("origin", "https://app.example");
    let refused = request.send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(text(refused.headers(), "access-control-allow-origin"), "https://app.example");
    assert!(text(refused.headers(), "access-control-expose-headers").contains("retry-after"));

    let none = Server::start().await;
    let request = none.api.request(Method::GET, "/users").header("origin", "https://app.example");
    assert!(!request.send().await.expect("an answer").headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn every_answer_tells_browsers_what_to_be_careful_about() {
    let server = Server::start().await;
    for path in ["/", "/docs/", "/openapi.json", "/users", "/users/lamp", "/nothing", "/livez", "/session"] {
        let response = get(&server.api, path).await;
        let headers = response.headers();
        assert_eq!(text(headers, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(text(headers, "cross-origin-resource-policy"), "same-origin", "{path}");
        let policy = text(headers, "content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        let is_page = text(headers, "content-type").starts_with("text/html");
        assert_eq!(headers.contains_key("x-frame-options"), is_page, "{path}");
        let caching = text(headers, "cache-control");
        assert_eq!(caching == "no-store", path != "/", "{path}: {caching}");
        assert!(!headers.contains_key("strict-transport-security"), "not without TLS");
    }
    let stream = server.api.request(Method::GET, "/statistics/transfers/day").header("accept", "text/event-stream");
    assert_eq!(text(stream.send().await.expect("an answer").headers(), "x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn a_flood_of_requests_and_streams_takes_nothing_from_others() {
    let server = server(Door::Closed, |it| {
        it.http.rates.rate_limit_per_key = "100/s".parse().expect("a rate");
        it.http.limits.max_streams_per_key = 20;
    })
    .await;
    let (flooder, other) = (key(&server).await, key(&server).await);
    let mut watching = other.stream(STREAM, None).await;
    watching.next_named("snapshot").await;
    let flood = async {
        let requests = join_all((0..300).map(|_| get(&flooder, "/users"))).await;
        let streams = join_all((0..100).map(|n| {
            let path = format!("{STREAM}&window={}", n + 1);
            let request = flooder.request(Method::GET, &path);
            async move { request.send().await.expect("an answer") }
        }));
        (requests, streams.await)
    };
    let ordinary = async {
        for n in 1..=50 {
            let (status, _) = other.post("/users", json!({})).await;
            assert_eq!(status, StatusCode::CREATED);
            let holds =
                |event: &crate::api::Event| event.data["buckets"].to_string().contains(&format!("\"count\":{n}"));
            watching.next_where(holds).await;
        }
    };
    let ((requests, streams), ()) = tokio::join!(flood, ordinary);
    let refused =
        |answers: &[Response]| answers.iter().filter(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).count();
    assert!(refused(&requests) > 0, "the flood is a flood");
    assert!(streams.len() - refused(&streams) <= 20, "and has its share of streams");
    drop((requests, streams));
    eventually(|| async {
        let status = get(&flooder, "/users").await.status();
        if status == StatusCode::OK { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(server.differences().await, 0);
}

#[tokio::test]
async fn refusals_are_counted() {
    let server = server(Door::Closed, |_| {}).await;
    for _ in 0..3 {
        assert_eq!(server.api.get("/users").await.0, StatusCode::UNAUTHORIZED);
    }
    let (_, secret) =
        keys::create(&server.database.pool, "x", Scopes::NONE.with(Scope::StatisticsRead), None).await.expect("a key");
    let api = server.api.with_key(&secret.key_text());
    assert_eq!(api.get("/users").await.0, StatusCode::FORBIDDEN);
    let figures = get(&api, "/metrics").await.text().await.expect("text");
    for line in [r#"refused_requests_total{status="401"} 3"#, r#"refused_requests_total{status="403"} 1"#] {
        assert!(figures.contains(&format!("newcycle_{line}")), "{figures}");
    }
}
