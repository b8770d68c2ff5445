//! Errors as clients get them: problem details (RFC 9457) that name the field or the line.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::boundary::Fault;
use super::connection::BodyError;
use super::records::BodyTooLarge;
use crate::auth::{KeyError, Refusal, Scope, SignInError, TokenError};
use crate::exports::{Cap, ExportError, IllegalTransition};
use crate::hub::TooManySeries;
use crate::ledger::LedgerError;
use crate::ledger::bulk::{Rejection, Report};
use crate::streams::{Invalid, StreamError};

/// What went wrong, as `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Identifies the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:newcycle:problem:invalid-field")]
    pub kind: String,
    /// The kind of problem in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// Every field that is wrong, with its line where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The scope that the caller lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub required_scope: Option<Scope>,
    /// What the server or its database did wrong, for the log.
    #[serde(skip)]
    fault: Option<Arc<sqlx::Error>>,
}

/// What is wrong with a field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// The line of a bulk request, counted from 1; in a JSON array, the position of the element.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<u64>,
    /// The field, a query parameter or part of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub field: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// The kinds of problems: the end of their `type`, and their title.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// 400.
    MalformedJson,
    /// 401: nobody said who it is.
    Unauthenticated,
    /// 401: what they said is not so.
    InvalidCredentials,
    /// 403.
    Forbidden,
    /// 403.
    CrossOrigin,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 408.
    TimedOut,
    /// 409.
    Conflict,
    /// 409.
    NameTaken,
    /// 409.
    WrongState,
    /// 410.
    Gone,
    /// 413.
    TooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 416.
    RangeNotSatisfiable,
    /// 421.
    Misdirected,
    /// 422.
    InvalidField,
    /// 429.
    TooManyRequests,
    /// 400.
    BrokenRequest,
    /// 400.
    NotEncrypted,
    /// 500.
    Internal,
    /// 503.
    Unavailable,
}

impl Kind {
    fn urn(self) -> String {
        format!("urn:newcycle:problem:{}", self.describe().1)
    }

    fn describe(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "The body is not JSON"),
            Self::BrokenRequest => (StatusCode::BAD_REQUEST, "broken-request", "The request broke off"),
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "unauthenticated", "This is not for everybody: say who you are")
            }
            Self::InvalidCredentials => {
                (StatusCode::UNAUTHORIZED, "invalid-credentials", "The key, token or session is not good")
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Your key does not allow this"),
            Self::CrossOrigin => (StatusCode::FORBIDDEN, "cross-origin", "Pages of other origins may not do this"),
            Self::NotEncrypted => (StatusCode::BAD_REQUEST, "not-encrypted", "The connection must be encrypted"),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request did not come in time"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This cannot be done with that method")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "The id belongs to another row"),
            Self::NameTaken => (StatusCode::CONFLICT, "name-taken", "The name belongs to another"),
            Self::WrongState => (StatusCode::CONFLICT, "wrong-state", "That cannot be done in this state"),
            Self::Gone => (StatusCode::GONE, "gone", "There was such a thing, and is no more"),
            Self::RangeNotSatisfiable => {
                (StatusCode::RANGE_NOT_SATISFIABLE, "range-not-satisfiable", "The file has no such part")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body has a content type that is not understood here",
            ),
            Self::Misdirected => {
                (StatusCode::MISDIRECTED_REQUEST, "misdirected", "This server does not answer to that name")
            }
            Self::TooManyRequests => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "That is more than is allowed")
            }
            Self::InvalidField => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "A field has a value that cannot be")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on the server"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The server cannot answer this now"),
        }
    }
}

impl Problem {
    /// A problem of that kind.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (status, _, title) = kind.describe();
        Self {
            kind: kind.urn(),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            required_scope: None,
            fault: None,
        }
    }

    /// Something that takes a scope which the caller lacks.
    pub fn forbidden(scope: Scope) -> Self {
        let detail = format!("This takes the scope {scope}, and yours do not include it");
        Self { required_scope: Some(scope), ..Self::new(Kind::Forbidden, detail) }
    }

    /// A field that is wrong.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let mut problem = Self::new(Kind::InvalidField, format!("{field}: {detail}"));
        problem.errors.push(FieldError { line: None, field: Some(field), detail });
        problem
    }

    /// A body that could not be read to its end.
    pub(super) fn unreadable(error: &(dyn std::error::Error + 'static)) -> Self {
        // Bodies wrap the errors of the bodies within them.
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        let kind = causes.find_map(|cause| match cause.downcast_ref() {
            Some(BodyError::TimedOut(_)) => Some(Kind::TimedOut),
            _ if cause.is::<BodyTooLarge>() => Some(Kind::TooLarge),
            _ => None,
        });
        let kind = kind.unwrap_or(Kind::BrokenRequest);
        Self::new(kind, error.to_string())
    }

    /// Whether it is a problem of that kind.
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind.urn()
    }

    /// Rows of a bulk request that were not taken, and with them none.
    pub fn rejected(report: Report) -> Self {
        let kind = match report {
            Report { malformed: 1.., .. } => Kind::MalformedJson,
            Report { conflicts, rejected, .. } if conflicts == rejected => Kind::Conflict,
            _ => Kind::InvalidField,
        };
        let rows = if report.rejected == 1 { "1 row is".to_owned() } else { format!("{} rows are", report.rejected) };
        let mut problem = Self::new(kind, format!("{rows} wrong, so nothing was inserted"));
        problem.errors = report.rejections.into_iter().map(FieldError::from).collect();
        problem
    }
}

impl From<Rejection> for FieldError {
    fn from(rejection: Rejection) -> Self {
        Self { line: Some(rejection.line), field: rejection.field, detail: rejection.detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let fault = self.fault.take();
        let challenge = self.challenge();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        // What else comes of this request could not be told from the next one.
        if status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(fault) = fault {
            response.extensions_mut().insert(Fault(fault));
        }
        response
    }
}

/// The one place where errors of the ledger become answers, and where those that are ours are written down.
impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match &error {
            LedgerError::NotFound { .. } => Self::new(Kind::NotFound, error.to_string()),
            LedgerError::Conflict { .. } => Self::new(Kind::Conflict, error.to_string()),
            LedgerError::Invalid { field, reason } => Self::field(*field, reason.clone()),
            LedgerError::Busy => Self::new(Kind::Unavailable, error.to_string()),
            LedgerError::Stopped => Self::new(Kind::Unavailable, error.to_string()),
            LedgerError::Database(source) => Self::database(Arc::clone(source)),
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::database(Arc::new(error))
    }
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::NotFound(_) => Self::new(Kind::NotFound, error.to_string()),
            ExportError::Illegal(IllegalTransition { state, .. }) if state.is_terminal() => {
                Self::new(Kind::WrongState, error.to_string())
            }
            ExportError::Illegal(_) => Self::new(Kind::WrongState, format!("{error}: cancel it first")),
            ExportError::Full(Cap::PerCaller(most)) => Self::new(
                Kind::TooManyRequests,
                format!("{most} exports of yours wait or run, which is the limit: come again when one is over"),
            ),
            ExportError::Full(Cap::All(most)) => {
                Self::new(Kind::Unavailable, format!("{most} exports wait or run, which is the limit"))
            }
            ExportError::Database(source) => source.into(),
        }
    }
}

impl From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::NotFound(_) | StreamError::NoBatch(_) | StreamError::NoDeadLetter(_) => {
                Self::new(Kind::NotFound, error.to_string())
            }
            StreamError::BatchRemoved(_) => Self::new(Kind::Gone, error.to_string()),
            StreamError::NameTaken => {
                let detail = error.to_string();
                let errors = vec![FieldError { line: None, field: Some("name".to_owned()), detail: detail.clone() }];
                Self { errors, ..Self::new(Kind::NameTaken, detail) }
            }
            StreamError::WrongState(state) => {
                Self::new(Kind::WrongState, format!("{error}: it is {state}, so wait or stop it first"))
            }
            StreamError::Away(reason) => Self::new(Kind::Unavailable, format!("This cannot be tried now: {reason}")),
            StreamError::Invalid(Invalid { field, reason }) => Self::field(field, reason),
            StreamError::Seal(source) => {
                tracing::error!(error = &source as &dyn std::error::Error, "a secret cannot be kept");
                Self::new(Kind::Unavailable, "The server has no key to keep the secret with; its log says why")
            }
            StreamError::Database(source) => source.into(),
        }
    }
}

impl From<TooManySeries> for Problem {
    fn from(error: TooManySeries) -> Self {
        Self::new(Kind::Unavailable, error.to_string())
    }
}

/// What is said of keys is said in words that tell no more than the caller may know.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Unavailable | Refusal::Token(TokenError::Unavailable) => Kind::Unavailable,
            _ => Kind::InvalidCredentials,
        };
        Self::new(kind, refusal.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Database(source) => source.into(),
            other => Self::new(Kind::Internal, other.to_string()),
        }
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused(refusal) => refusal.into(),
            SignInError::Failed(error) => error.into(),
        }
    }
}

impl Problem {
    /// What a client has to come with (RFC 6750, 3).
    fn challenge(&self) -> Option<HeaderValue> {
        if let Some(scope) = self.required_scope {
            let challenge = format!("Bearer realm=\"newcycle\", error=\"insufficient_scope\", scope=\"{scope}\"");
            return challenge.try_into().ok();
        }
        if self.is(Kind::InvalidCredentials) {
            return Some(HeaderValue::from_static("Bearer realm=\"newcycle\", error=\"invalid_token\""));
        }
        self.is(Kind::Unauthenticated).then(|| HeaderValue::from_static("Bearer realm=\"newcycle\""))
    }

    fn database(error: Arc<sqlx::Error>) -> Self {
        let (kind, detail) = judge(&error);
        Self { fault: Some(error), ..Self::new(kind, detail) }
    }
}

/// What an error of the database means to whoever sent the request.
fn judge(error: &sqlx::Error) -> (Kind, &'static str) {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let class = code.as_ref().and_then(|code| code.get(..2)).unwrap_or("");
    // Classes of error codes: PostgreSQL manual, "Error Codes".
    match (class, error) {
        // A deadlock: two requests had rows that the other one waited for.
        ("40", _) => (Kind::Unavailable, "Another request was inserting the same rows; nothing was written"),
        // Connection exceptions, out of resources, and shutdown.
        ("08" | "53" | "57", _)
        | (_, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => {
            (Kind::Unavailable, "The database cannot be reached; nothing was written")
        }
        // Its answer was lost, and with it whether it had done what it was told.
        (_, sqlx::Error::Io(_)) => (
            Kind::Unavailable,
            "The connection to the database broke. What was to be written may have been written or not: with an id of \
            your own you can safely send it again",
        ),
        _ => (Kind::Internal, "The server's log has the details, under the request id of this answer"),
    }
}
