//! The OpenAPI document, from which clients and the dashboard's types are generated.

use std::collections::HashSet;

use serde_json::{Map, Value};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

fn document() -> Value {
    serde_json::to_value(newcycle::http::openapi()).expect("JSON")
}

/// Every operation as `("GET /items", operation)`.
fn operations(document: &Value) -> Vec<(String, Map<String, Value>)> {
    let paths = document["paths"].as_object().expect("paths");
    let methods = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.iter().map(move |(method, operation)| {
            (format!("{} {path}", method.to_uppercase()), operation.as_object().expect("an operation").clone())
        })
    });
    methods.collect()
}

/// All values of that name, wherever they are.
fn all<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(name));
            object.values().for_each(|value| all(name, value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| all(name, value, found)),
        _ => {}
    }
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let document = newcycle::http::openapi().to_pretty_json().expect("JSON");
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(
        document.trim() == committed.trim(),
        "openapi.json is out of date; see whether the change is meant, then: cargo run -- openapi > openapi.json"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let mut references = Vec::new();
    all("$ref", &document, &mut references);
    let references: HashSet<_> = references.into_iter().map(|reference| reference.as_str().expect("text")).collect();
    for reference in &references {
        let target = document.pointer(reference.strip_prefix('#').expect("a place in this document"));
        assert!(target.is_some(), "{reference}");
    }
    for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
        assert!(references.contains(format!("#/components/schemas/{name}").as_str()), "{name} is used nowhere");
    }
}

#[test]
fn every_operation_says_what_it_does_and_how_it_fails() {
    let mut ids = HashSet::new();
    for (name, operation) in operations(&document()) {
        assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name} has no summary");
        let id = operation["operationId"].as_str().expect("an id").to_owned();
        assert!(ids.insert(id), "{name} shares its operationId with another operation");
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name} never succeeds");
        let is_failure = |status: &str| !status.starts_with(['2', '3']);
        let failures: Vec<_> = responses.iter().filter(|(status, _)| is_failure(status)).collect();
        // Those for health checks need nothing but the status.
        if operation["tags"][0] == "health" {
            continue;
        }
        assert!(!failures.is_empty(), "{name} never fails");
        for (status, failure) in failures {
            let problem = &failure["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{name} {status}");
        }
    }
}

#[test]
fn creating_takes_one_row_or_many_and_answers_with_one_row_or_a_summary() {
    let document = document();
    for (path, row) in [("/base-items", "BaseItem"), ("/users", "User"), ("/items", "Item"), ("/transfers", "Transfer")]
    {
        let post = &document["paths"][path]["post"];
        let schema = |content: &Value, media_type: &str| {
            let schema = content["content"][media_type]["schema"].clone();
            let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            reference.map_or(schema.clone(), |reference| document.pointer(reference).expect(reference).clone())
        };
        let body = schema(&post["requestBody"], "application/json");
        let new = format!("#/components/schemas/New{row}");
        assert_eq!(body["oneOf"][0]["$ref"], *new, "{path}");
        assert_eq!(body["oneOf"][1]["type"], "array", "{path}");
        assert_eq!(body["oneOf"][1]["items"]["$ref"], *new, "{path}");
        assert_eq!(schema(&post["requestBody"], "application/x-ndjson")["type"], "string", "{path}");

        let answer = schema(&post["responses"]["200"], "application/json");
        assert_eq!(answer["oneOf"][0]["$ref"], *format!("#/components/schemas/{row}"), "{path}");
        assert_eq!(answer["oneOf"][1]["$ref"], "#/components/schemas/BulkAnswer", "{path}");
        for status in ["201", "400", "409", "413", "415", "422"] {
            assert!(post["responses"][status].is_object(), "{path} {status}");
        }
        let page = schema(&document["paths"][path]["get"]["responses"]["200"], "application/json");
        assert_eq!(page["properties"]["data"]["items"]["$ref"], *format!("#/components/schemas/{row}"), "{path}");
        assert_eq!(page["required"], serde_json::json!(["data", "next_page_token"]), "{path}");
    }
}

#[test]
fn metrics_and_resolutions_are_enumerated_by_the_names_that_the_server_understands() {
    let schemas = &document()["components"]["schemas"];
    let metrics = newcycle::statistics::Metric::ALL.map(newcycle::statistics::Metric::name);
    assert_eq!(schemas["Metric"]["enum"], serde_json::json!(metrics));
    let resolutions = newcycle::statistics::Resolution::ALL.map(newcycle::statistics::Resolution::name);
    assert_eq!(schemas["Resolution"]["enum"], serde_json::json!(resolutions));
}
