//! What `make conformance` and `make fuzz` have found, so that it is not found again.

use reqwest::StatusCode;
use serde_json::{Value, json};

use newcycle::exports::{Compression, Format};

use crate::harness::Server;

/// To some it was as if the parameter was not there, and the answer was to another question.
#[tokio::test]
async fn an_empty_parameter_is_refused_by_its_name() {
    let server = Server::start().await;
    for (path, parameter) in [
        ("/exports?page_size=", "page_size"),
        ("/items?page_size=", "page_size"),
        ("/dead-letters?stream_id=", "stream_id"),
        ("/statistics/transfers/day?limit=", "limit"),
        ("/statistics/transfers/day?fill=", "fill"),
        ("/statistics/transfers/day?base_item_id=&limit=1", "base_item_id"),
        ("/statistics/transfers/day?timezone=", "timezone"),
        ("/statistics/stream?interval=", "interval"),
    ] {
        let (status, problem) = server.api.get(path).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {problem}");
        assert_eq!(problem["errors"][0]["field"], parameter, "{path}: {problem}");
    }
    let (status, _) = server.api.get("/items?page_size=1").await;
    assert_eq!(status, StatusCode::OK);
}

/// Each made the server end, for everybody: its stack was used up, or all memory there was.
#[tokio::test]
async fn no_transform_takes_the_server_with_it() {
    let server = Server::start().await;
    let preview = |transform: Value| {
        let body = json!({"sample": [{"id": 1, "a": "x"}], "transform": transform});
        server.api.post("/streams/preview", body)
    };
    let far = "/a".repeat(100_000);
    let (status, problem) = preview(json!([{"constant": {"field": far, "value": 1}}])).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["field"], "transform[0].constant.field");
    for step in [
        json!({"rename": {"from": "", "to": "/a".repeat(90)}}),
        json!({"template": {"field": "a", "template": "{a}{a}"}}),
    ] {
        let (status, preview) = preview(vec![step.clone(); 100].into()).await;
        assert_eq!(status, StatusCode::OK, "{step}");
        assert!(preview["records"][0]["reason"].is_string(), "{step}: {preview}");
    }
}

/// The request broke off, and of a stream whose records are said to be there the run.
#[tokio::test]
async fn an_element_that_an_array_does_not_have_is_missing() {
    let server = Server::start().await;
    let transform = json!([{"rename": {"from": "/a/0", "to": "b"}}]);
    let body = json!({"sample": [{"id": 1, "a": []}, {"id": 2, "a": [3]}], "transform": transform});
    let (status, preview) = server.api.post("/streams/preview", body).await;
    assert_eq!(status, StatusCode::OK, "{preview}");
    assert_eq!(preview["records"][0]["record"], json!({"id": 1, "a": []}));
    assert_eq!(preview["records"][1]["record"], json!({"id": 2, "a": [], "b": 3}));
}

/// There is one more after each page, which has a number as well.
#[tokio::test]
async fn pages_are_counted_from_a_number_after_which_there_are_others() {
    let server = Server::start().await;
    let stream = |first: u64| {
        let page = json!({"page": {"parameter": "page", "first": first}});
        json!({"name": first.to_string(), "source": {"http": {"url": "https://example.com/", "pagination": page}}})
    };
    let (status, problem) = server.api.post("/streams", stream(u64::MAX)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["field"], "source.http.pagination.page.first");
    let (status, problem) = server.api.post("/streams", stream(1_000_000_000)).await;
    assert_eq!(status, StatusCode::CREATED, "{problem}");
}

#[test]
fn the_document_names_the_media_types_of_all_files() {
    let document = serde_json::to_value(newcycle::http::openapi()).expect("JSON");
    let responses = &document["paths"]["/exports/{id}/data"]["get"]["responses"];
    for format in Format::ALL {
        for compression in Compression::ALL {
            let media_type = format.media_type(compression).split(';').next().expect("a type");
            for status in ["200", "206"] {
                assert!(responses[status]["content"][media_type].is_object(), "{media_type} {status}");
            }
        }
    }
}

/// What has another field besides is refused, and so has to be in the document.
#[test]
fn the_document_says_that_choices_take_nothing_besides() {
    let document = serde_json::to_value(newcycle::http::openapi()).expect("JSON");
    for name in ["Auth", "Destination", "Pagination", "SourceSettings", "Step"] {
        for variant in document["components"]["schemas"][name]["oneOf"].as_array().expect("variants") {
            assert_eq!(variant["additionalProperties"], false, "{name}: {variant}");
        }
    }
}
