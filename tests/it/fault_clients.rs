//! Clients that send what nobody should: each is told what is wrong with it, in words that name it, and nothing is written.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::future::poll_immediate;
use newcycle::database::Database;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::yield_now;
use uuid::Uuid;

use crate::api::{Answer, Api};
use crate::harness::{Server, connect, new_database, url};

async fn send(api: &Api, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = api.request(Method::POST, path).header("content-type", "application/json").body(body);
    Api::send(request).await
}

/// Lists within lists.
fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn bodies_that_nobody_should_send_are_refused_and_nothing_is_written() {
    let server = Server::start().await;
    let base_item = server.api.base_item().await;
    let item = server.api.item(&base_item).await;
    let user = server.api.user().await;
    let rows = server.rows().await;
    let valid = json!({"item_id": item, "owner_id": user}).to_string();
    let with = |more: &str| format!("{},{more}}}", valid.trim_end_matches('}'));
    let bodies: Vec<(&str, Vec<u8>, StatusCode)> = vec![
        ("nothing", vec![], StatusCode::BAD_REQUEST),
        ("blanks", b" \r\n\t".to_vec(), StatusCode::BAD_REQUEST),
        ("a byte order mark", format!("\u{feff}{valid}").into_bytes(), StatusCode::BAD_REQUEST),
        ("no UTF-8", b"{\"item_id\": \"\xff\xfe\"}".to_vec(), StatusCode::BAD_REQUEST),
        ("half a surrogate pair", br#"{"item_id": "\ud800"}"#.to_vec(), StatusCode::BAD_REQUEST),
        ("two bodies", format!("{valid}{valid}").into_bytes(), StatusCode::BAD_REQUEST),
        ("what is not closed", valid.trim_end_matches('}').as_bytes().to_vec(), StatusCode::BAD_REQUEST),
        ("a comment", format!("/* */{valid}").into_bytes(), StatusCode::BAD_REQUEST),
        ("NaN", with(r#""timestamp": NaN"#).into_bytes(), StatusCode::BAD_REQUEST),
        ("depth", deep(100_000).into_bytes(), StatusCode::BAD_REQUEST),
        ("depth in a field", with(&format!(r#""timestamp": {}"#, deep(100_000))).into_bytes(), StatusCode::BAD_REQUEST),
        ("a key twice", with(&format!(r#""item_id": "{item}""#)).into_bytes(), StatusCode::UNPROCESSABLE_ENTITY),
        ("an unknown key", with(r#""colour": 1"#).into_bytes(), StatusCode::UNPROCESSABLE_ENTITY),
        ("another type", with(r#""timestamp": 12"#).into_bytes(), StatusCode::UNPROCESSABLE_ENTITY),
        (
            "a number without an end",
            with(&format!(r#""timestamp": 1{}"#, "0".repeat(100_000))).into_bytes(),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        ("text", b"\"transfer\"".to_vec(), StatusCode::UNPROCESSABLE_ENTITY),
        ("null", b"null".to_vec(), StatusCode::UNPROCESSABLE_ENTITY),
        ("a list of lists", b"[[]]".to_vec(), StatusCode::UNPROCESSABLE_ENTITY),
    ];
    for (name, body, expected) in bodies {
        let (status, problem) = send(&server.api, "/transfers", body).await;
        assert_eq!(status, expected, "{name}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{name}: {problem}");
    }
    for (timestamp, expected) in [
        ("2024-02-29T23:59:59.999999Z", StatusCode::CREATED),
        ("2026-02-29T00:00:00Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("2016-12-31T23:59:60Z", StatusCode::CREATED),
        ("2016-12-31T23:59:61Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("2026-01-01T24:00:00Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("2026-01-01T00:00:00", StatusCode::UNPROCESSABLE_ENTITY),
        ("2026-01-01T00:00:00+24:00", StatusCode::UNPROCESSABLE_ENTITY),
        ("0000-01-01T00:00:00Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("-0001-01-01T00:00:00Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("9999-12-31T23:59:59.999999Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("+262142-12-31T23:59:59Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("+999999999-01-01T00:00:00Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("2026-01-01T00:00:00Z\0", StatusCode::UNPROCESSABLE_ENTITY),
        ("١٩٧٠-٠١-٠١T00:00:00Z", StatusCode::UNPROCESSABLE_ENTITY),
        ("", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let body = json!({"item_id": item, "owner_id": user, "timestamp": timestamp});
        let (status, problem) = server.api.post("/transfers", body).await;
        assert_eq!(status, expected, "{timestamp:?}: {problem}");
        if status != StatusCode::CREATED {
            assert_eq!(problem["errors"][0]["field"], "timestamp", "{timestamp:?}: {problem}");
        }
    }
    let [base_items, users, items, transfers] = rows;
    assert_eq!(server.rows().await, [base_items, users, items, transfers + 2], "the leap day, and the leap second");
    assert_eq!(server.differences().await, 0);
}

#[tokio::test]
async fn questions_that_nobody_should_ask_are_refused_with_the_parameter() {
    let server = Server::start().await;
    let long = "a".repeat(60_000);
    let cases: BTreeMap<&str, Vec<String>> = BTreeMap::from([
        (
            "timezone",
            vec!["Mars/Olympus".into(), "%00".into(), "..%2F..%2Fetc%2Fpasswd".into(), "UTC%00".into(), long.clone()],
        ),
        (
            "from",
            vec![
                "yesterday".into(),
                "2026-02-30T00:00:00Z".into(),
                "%2B262143-01-01T00:00:00Z".into(),
                "%FF%FE".into(),
            ],
        ),
        (
            "page_size",
            vec!["0".into(), "-1".into(), "1001".into(), "99999999999999999999".into(), "1e3".into(), "NaN".into()],
        ),
        ("page_token", vec!["%00".into(), "AAAA".into(), "=".into(), long]),
    ]);
    for (parameter, values) in cases {
        let path = match parameter {
            "timezone" | "from" => "/statistics/transfers/day",
            _ => "/users",
        };
        for value in values {
            let (status, problem) = server.api.get(&format!("{path}?{parameter}={value}")).await;
            let shown: String = value.chars().take(40).collect();
            assert!(status.is_client_error(), "{parameter}={shown}: {status} {problem}");
            if status == StatusCode::UNPROCESSABLE_ENTITY {
                assert_eq!(problem["errors"][0]["field"], Value::from(parameter), "{parameter}={shown}: {problem}");
            }
        }
    }
    server.api.until_ready().await;
}

#[tokio::test]
async fn whoever_leaves_while_a_transaction_begins_takes_nothing_of_others_along() {
    let name = new_database().await;
    let others = connect(&name).await;
    let config = url(&name).await.parse().expect("a URL");
    let database = Database::connect(config, 1).await.expect("it answers");
    for patience in 0..60 {
        {
            let mut begin = pin!(database.pool.begin());
            for _ in 0..patience {
                if poll_immediate(begin.as_mut()).await.is_some() {
                    break;
                }
                yield_now().await;
            }
        }
        let id: Uuid = sqlx::query_scalar("insert into users default values returning id")
            .fetch_one(&database.pool)
            .await
            .expect("a user");
        let there: bool = sqlx::query_scalar("select exists (select from users where id = $1)")
            .bind(id)
            .fetch_one(&others.pool)
            .await
            .expect("an answer");
        assert!(there, "what was acknowledged is there, after {patience} looks");
    }
}
