//! The parts of the OpenAPI document that no handler has by itself: the problems that operations share, and names for
//! what utoipa would write out again and again.

use std::collections::BTreeMap;

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, ResponseBuilder, Schema};
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

/// One of the events that the body of a stream consists of.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: events are written as text")]
pub(super) struct ServerSentEvent {
    /// What happened, most often as JSON.
    data: String,
    /// What kind of event it is; `message`, if it has no name.
    #[schema(nullable = false)]
    event: Option<String>,
    /// From where another connection resumes (`Last-Event-ID`).
    #[schema(nullable = false)]
    id: Option<String>,
}

/// A file that is no text.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "a schema: files are sent as they are")]
pub(super) struct FileBytes(Vec<u8>);

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

/// What can go wrong with something that is to be started.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum StartProblems {
    /// The body is not JSON, or it broke off
    #[response(status = 400, content_type = PROBLEM)]
    Malformed(Problem),
    /// The body is too large
    #[response(status = 413, content_type = PROBLEM)]
    TooLarge(Problem),
    /// The body is not `application/json`
    #[response(status = 415, content_type = PROBLEM)]
    UnsupportedMediaType(Problem),
    /// A field is wrong, or names something that does not exist
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server or its database cannot do this now, or there are as many as may be
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// What can go wrong with a change of state.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum TransitionProblems {
    /// There is no such thing
    #[response(status = 404, content_type = PROBLEM)]
    NotFound(Problem),
    /// That cannot be done in the state that it is in
    #[response(status = 409, content_type = PROBLEM)]
    WrongState(Problem),
    /// A parameter is wrong
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server or its database cannot do this now
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// What can go wrong with a download.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum DownloadProblems {
    /// There is no such thing
    #[response(status = 404, content_type = PROBLEM)]
    NotFound(Problem),
    /// There is no file, or not yet
    #[response(status = 409, content_type = PROBLEM)]
    WrongState(Problem),
    /// The file has been removed
    #[response(status = 410, content_type = PROBLEM)]
    Gone(Problem),
    /// The file has no such part
    #[response(status = 416, content_type = PROBLEM)]
    RangeNotSatisfiable(Problem),
    /// A parameter is wrong
    #[response(status = 422, content_type = PROBLEM)]
    Invalid(Problem),
    /// The server, its database or its store cannot do this now
    #[response(status = "5XX", content_type = PROBLEM)]
    Unavailable(Problem),
}

/// What can go wrong with something of which there were others.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum GoneProblems {
    /// There is no such thing, or not yet
    #[response(status = 404, content_type = PROBLEM)]
    NotFound(Problem),
    /// It has been removed
    #[response(status = 410, content_type = PROBLEM)]
    Gone(Problem),
    /// A parameter is wrong
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

/// What can go wrong with signing in and out.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a list of answers")]
pub(super) enum SignInProblems {
    /// The body is not JSON, or it broke off
    #[response(status = 400, content_type = PROBLEM)]
    Malformed(Problem),
    /// The key is not good
    #[response(status = 401, content_type = PROBLEM)]
    Refused(Problem),
    /// A page of another origin asked
    #[response(status = 403, content_type = PROBLEM)]
    CrossOrigin(Problem),
    /// The body is not `application/json`
    #[response(status = 415, content_type = PROBLEM)]
    UnsupportedMediaType(Problem),
    /// The key is missing
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

/// The document with choices that take nothing besides: serde says so of enums with named variants, and utoipa does not.
pub(super) fn with_closed_choices(mut document: OpenApi) -> OpenApi {
    for schema in document.components.iter_mut().flat_map(|components| components.schemas.values_mut()) {
        if let RefOr::T(Schema::OneOf(one_of)) = schema {
            one_of.items.iter_mut().filter(|variant| is_named_variant(variant)).for_each(close);
        }
    }
    document
}

/// Whether it is an object of one field, which is needed: the variant's name.
fn is_named_variant(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.properties.len() == 1 && object.required.len() == 1)
}

fn close(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && !object.properties.is_empty()
    {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        object.properties.values_mut().for_each(close);
    }
}

/// The document of guarded routes with how callers say who they are, and what is answered to those who may not. Operations
/// name the scope that they take, of a key; a session and a token have scopes as well.
pub(super) fn with_security(mut document: OpenApi) -> OpenApi {
    let key = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some(
        "A key that `newcycle keys create` printed, or a token (JWT) of your identity provider where one is configured. \
        Without either while the server is open.",
    ));
    let session =
        ApiKeyValue::with_description("newcycle-session", "The cookie that `POST /session` sets, for browsers");
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(key.build()));
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)));
    for path in document.paths.paths.values_mut() {
        let methods = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
        for operation in methods.into_iter().flatten() {
            let requirements = operation.security.get_or_insert_default();
            if let Some(scopes) = requirements.iter().find_map(scopes_of_key) {
                requirements.push(SecurityRequirement::new("session", scopes));
                add_problem(operation, "403", "The caller lacks the scope");
            }
            add_problem(operation, "401", "Nobody says who it is, or what they say is not so");
            if operation.request_body.is_some() {
                add_problem(operation, "408", "The body did not come in time");
            }
            add_problem(operation, "421", "The server is open to this machine, and was called by another name");
            add_problem(operation, "429", "More requests or streams than are allowed: come again after `Retry-After`");
        }
    }
    document
}

fn add_problem(operation: &mut Operation, status: &str, description: &str) {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let response = ResponseBuilder::new().description(description).content(PROBLEM, problem);
    operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.build().into());
}

fn scopes_of_key(requirement: &SecurityRequirement) -> Option<Vec<String>> {
    // What a requirement consists of is private; its form in the document is not.
    let form = serde_json::to_value(requirement).ok()?;
    serde_json::from_value(form.get("key")?.clone()).ok()
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
