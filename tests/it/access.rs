//! Every route, for everybody who may ask: taken from the route table, so that a new route without a decision fails.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use newcycle::auth::{Door, Scope, Scopes, Settings, keys};
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::{Server, eventually, new_database};

/// What everybody may do. A route is not added to these by accident.
const PUBLIC: [&str; 5] = ["DELETE /session", "GET /livez", "GET /readyz", "GET /session", "POST /session"];

/// A route of the table, and the scope that it takes.
struct Route {
    name: String,
    method: Method,
    path: String,
    scope: Option<Scope>,
}

/// Every route that the server has, as its document tells.
fn routes() -> Vec<Route> {
    let document = serde_json::to_value(newcycle::http::openapi()).expect("JSON");
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let name = format!("{} {path}", method.to_uppercase());
            let security = operation["security"].as_array().unwrap_or_else(|| panic!("{name}: who may do this?"));
            let scope = security.iter().find_map(|way| way["key"][0].as_str());
            let session = security.iter().find_map(|way| way["session"][0].as_str());
            assert_eq!(scope, session, "{name}: a session has the scopes of its key");
            assert!(scope.is_some() || *security == [json!({})], "{name}: neither for a scope nor for everybody");
            let path = path
                .replace("{metric}", "transfers")
                .replace("{resolution}", "minute")
                .replace("{number}", "1")
                .replace("{id}", &Uuid::new_v4().to_string());
            assert!(!path.contains('{'), "{name}: what does it mean?");
            routes.push(Route {
                name,
                method: method.to_uppercase().parse().expect("a method"),
                path,
                scope: scope.map(|scope| scope.parse().expect("a scope")),
            });
        }
    }
    routes
}

async fn ask(server: &Server, route: &Route, authorization: Option<&str>) -> Response {
    let mut request = server.api.request(route.method.clone(), &route.path);
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    request.send().await.expect("an answer")
}

async fn key(pool: &PgPool, scopes: Scopes) -> String {
    format!("Bearer {}", keys::create(pool, "test", scopes, None).await.expect("a key").1.key_text())
}

/// A refusal, with what a client has to come with.
async fn refusal(response: Response) -> (StatusCode, String, Value) {
    let challenge = response.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().expect("text").to_owned());
    let status = response.status();
    (status, challenge.unwrap_or_default(), response.json().await.expect("a problem"))
}

async fn closed() -> Server {
    Server::guarded(&new_database().await, Settings { door: Door::Closed, ..Settings::default() }).await
}

#[test]
fn what_everybody_may_do_is_known() {
    let public: BTreeSet<_> =
        routes().into_iter().filter(|route| route.scope.is_none()).map(|route| route.name).collect();
    assert_eq!(public, PUBLIC.into_iter().map(str::to_owned).collect());
}

#[tokio::test]
async fn without_a_key_nothing_is_answered_but_what_is_for_everybody() {
    let server = closed().await;
    for route in routes() {
        let response = ask(&server, &route, None).await;
        if route.scope.is_none() {
            assert!(!matches!(response.status().as_u16(), 401 | 403), "{}: {}", route.name, response.status());
            continue;
        }
        let (status, challenge, problem) = refusal(response).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{}", route.name);
        assert_eq!(challenge, r#"Bearer realm="newcycle""#, "{}", route.name);
        assert_eq!(problem["type"], "urn:newcycle:problem:unauthenticated", "{}", route.name);
    }
}

#[tokio::test]
async fn a_key_without_the_scope_is_told_which_one_is_missing() {
    let server = closed().await;
    for route in routes() {
        let Some(scope) = route.scope else { continue };
        let others = Scope::ALL.into_iter().filter(|other| *other != scope && *other != Scope::Admin).collect();
        let key = key(&server.database.pool, others).await;
        let (status, challenge, problem) = refusal(ask(&server, &route, Some(&key)).await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{}", route.name);
        assert_eq!(problem["required_scope"], scope.name(), "{}", route.name);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(scope.name())), "{problem}");
        let expected = format!(r#"Bearer realm="newcycle", error="insufficient_scope", scope="{scope}""#);
        assert_eq!(challenge, expected, "{}", route.name);
    }
}

#[tokio::test]
async fn a_key_with_the_scope_may_and_so_may_an_admin() {
    let server = closed().await;
    let admin = key(&server.database.pool, Scopes::NONE.with(Scope::Admin)).await;
    for route in routes() {
        let Some(scope) = route.scope else { continue };
        let right = key(&server.database.pool, Scopes::NONE.with(scope)).await;
        for key in [&right, &admin] {
            let status = ask(&server, &route, Some(key)).await.status();
            assert!(!matches!(status.as_u16(), 401 | 403 | 500), "{}: {status}", route.name);
        }
    }
}

#[tokio::test]
async fn a_key_that_expired_or_was_revoked_or_is_wrong_may_nothing_and_learns_why_only_if_it_was_good() {
    let server = closed().await;
    let pool = &server.database.pool;
    let before = Utc::now() - TimeDelta::hours(1);
    let (_, expired) = keys::create(pool, "expired", Scopes::ALL, Some(before)).await.expect("a key");
    let (revoked_key, revoked) = keys::create(pool, "revoked", Scopes::ALL, None).await.expect("a key");
    keys::revoke(pool, &revoked_key.id).await.expect("it is revoked");
    let text = revoked.key_text();
    // The server looks once a second, and that may have been in the moment between.
    let revoked = server.api.with_key(&text);
    eventually(|| async {
        let (status, answer) = revoked.get("/users").await;
        if status == StatusCode::UNAUTHORIZED { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let (head, last) = text.split_at(text.len() - 1);
    let wrong_secret = format!("{head}{}", if last == "a" { "b" } else { "a" });
    let unknown = newcycle::auth::Secret::generate().expect("random numbers").key_text();
    let cases = [
        (format!("Bearer {}", expired.key_text()), "This key expired at "),
        (format!("bearer {text}"), "This key was revoked"),
        (format!("Bearer {wrong_secret}"), "This key is not valid"),
        (format!("Bearer {unknown}"), "This key is not valid"),
        (format!("Bearer {head}"), "look whether it was copied as a whole"),
        ("Bearer".to_owned(), "Send the key as `Authorization: Bearer nck_…`"),
        (format!("Basic {text}"), "Send the key as `Authorization: Bearer nck_…`"),
    ];
    for route in routes() {
        if route.scope.is_none() {
            continue;
        }
        for (authorization, reason) in &cases {
            let (status, challenge, problem) = refusal(ask(&server, &route, Some(authorization)).await).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} {reason}", route.name);
            assert_eq!(challenge, r#"Bearer realm="newcycle", error="invalid_token""#, "{} {reason}", route.name);
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{problem}");
            assert!(!problem.to_string().contains(&text), "a secret is not said again");
        }
    }
}

#[tokio::test]
async fn whoever_may_not_learns_nothing_of_what_there_is() {
    let server = closed().await;
    let writer = key(&server.database.pool, Scopes::NONE.with(Scope::LedgerWrite)).await;
    let user: Uuid = sqlx::query_scalar("insert into users default values returning id")
        .fetch_one(&server.database.pool)
        .await
        .expect("a user");
    let mut answers = Vec::new();
    for id in [user.to_string(), Uuid::new_v4().to_string(), "lamp".to_owned()] {
        let path = format!("/users/{id}?nonsense=1");
        let request = server.api.request(Method::GET, &path).header(AUTHORIZATION, &writer);
        answers.push(request.send().await.expect("an answer").text().await.expect("text"));
    }
    assert_eq!(answers[0], answers[1], "that one exists cannot be seen");
    assert_eq!(answers[0], answers[2], "nor what an id looks like");
}

#[tokio::test]
async fn statistics_may_be_public_and_nothing_else_is_then() {
    let settings = Settings { door: Door::Closed, public_statistics: true, ..Settings::default() };
    let server = Server::guarded(&new_database().await, settings).await;
    let mut public = BTreeSet::new();
    for route in routes() {
        let status = ask(&server, &route, None).await.status();
        if route.scope.is_some() && status != StatusCode::UNAUTHORIZED {
            assert_eq!(status, StatusCode::OK, "{}", route.name);
            public.insert(route.name);
        }
    }
    let expected =
        ["GET /statistics/stream", "GET /statistics/{metric}/breakdown", "GET /statistics/{metric}/{resolution}"];
    assert_eq!(public, expected.into_iter().map(str::to_owned).collect());
}

#[tokio::test]
async fn files_of_the_dashboard_and_the_documentation_are_for_everybody() {
    let server = closed().await;
    for path in ["/", "/docs/", "/openapi.json"] {
        let response = server.api.request(Method::GET, path).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}
