//! The parts of the OpenAPI document that no handler has by itself: the problems that operations share, and names for
//! what utoipa would write out again and again.

use std::collections::BTreeMap;

use utoipa::openapi::schema::ArrayItems;
use utoipa::openapi::{OpenApi, Ref, RefOr, Schema};
use utoipa::{IntoResponses, ToSchema};

use super::problem::Problem;

const PROBLEM: &str = "application/problem+json";

/// The body of a creating request.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[serde(untagged)]
#[expect(dead_code, reason = "a schema: such bodies are read as streams")]
pub(super) enum OneOrMany<T> {
    /// One row.
    One(T),
    /// Many rows: all or none, unless `skip_rejected` is set.
    Many(Vec<T>),
}

/// What can go wrong with rows that are sent.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum CreateProblems {
    /// The body is not JSON, or it broke off
    #[response(status = 400, content_type = PROBLEM)]
    Malformed(Problem),
    /// An id belongs to another row
    #[response(status = 409, content_type = PROBLEM)]
    Conflict(Problem),
    /// A row is too large
    #[response(status = 413, content_type = PROBLEM)]
    TooLarge(Problem),
    /// The body is neither `application/json` nor `application/x-ndjson`
    #[response(status = 415, content_type = PROBLEM)]
    UnsupportedMediaType(Problem),
    /// A field or parameter is wrong, or names something that does not exist
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server or its database cannot do this now
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// What can go wrong with a body that is one JSON object, about something in the path.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum ChangeProblems {
    /// The body is not JSON, or it broke off
    #[response(status = 400, content_type = PROBLEM)]
    Malformed(Problem),
    /// There is no such thing
    #[response(status = 404, content_type = PROBLEM)]
    NotFound(Problem),
    /// The body is too large
    #[response(status = 413, content_type = PROBLEM)]
    TooLarge(Problem),
    /// The body is not `application/json`
    #[response(status = 415, content_type = PROBLEM)]
    UnsupportedMediaType(Problem),
    /// A field is wrong, or names something that does not exist
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server or its database cannot do this now
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// What can go wrong with something that is looked up by its id.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum LookupProblems {
    /// There is no such thing
    #[response(status = 404, content_type = PROBLEM)]
    NotFound(Problem),
    /// A parameter is wrong
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server or its database cannot do this now
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// What can go wrong with a query.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum QueryProblems {
    /// A parameter is wrong
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server or its database cannot do this now
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// The document with references in place of schemas that have a name. utoipa writes the arguments of generic schemas
/// out, so that types generated from `Page<Item>` would not know that they hold an `Item`.
pub(super) fn with_references(mut document: OpenApi) -> OpenApi {
    if let Some(components) = &mut document.components {
        let named = components.schemas.clone();
        for schema in components.schemas.values_mut() {
            parts(schema).into_iter().for_each(|part| refer(part, &named));
        }
    }
    document
}

fn refer(schema: &mut RefOr<Schema>, named: &BTreeMap<String, RefOr<Schema>>) {
    match named.iter().find(|(_, known)| *known == schema) {
        Some((name, _)) => *schema = Ref::from_schema_name(name).into(),
        None => parts(schema).into_iter().for_each(|part| refer(part, named)),
    }
}

/// The schemas that this one consists of.
fn parts(schema: &mut RefOr<Schema>) -> Vec<&mut RefOr<Schema>> {
    match schema {
        RefOr::T(Schema::Object(object)) => object.properties.values_mut().collect(),
        RefOr::T(Schema::OneOf(one_of)) => one_of.items.iter_mut().collect(),
        RefOr::T(Schema::Array(array)) => match &mut array.items {
            ArrayItems::RefOrSchema(items) => vec![items],
            ArrayItems::False => Vec::new(),
        },
        _ => Vec::new(),
    }
}
