//! The guard before every route but those for health checks: who is it, and may they come in at all?
//!
//! What a request must be allowed to is said by its handler, in its signature: [`Allowed`].

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::connection::Transport;
use super::cookie;
use super::problem::{Kind, Problem};
use crate::auth::{Authority, Caller, Presented, Scope};

/// What the guard found out about a request. Handlers get it as an `Extension`.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) caller: Caller,
    /// Whose requests these are, where that is counted: the same key or subject, or else the same address. Nobody's while
    /// the door is open.
    pub(super) holder: Option<Arc<str>>,
    has_public_statistics: bool,
}

/// What the guard goes by.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) authority: Authority,
}

/// Lets a request in, or answers it.
pub(super) async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let transport = request.extensions().get::<Transport>().copied();
    match guard.admit(request.method(), request.headers(), transport).await {
        Ok(admitted) => {
            request.extensions_mut().insert(admitted);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Guard {
    async fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        transport: Option<Transport>,
    ) -> Result<Admitted, Problem> {
        if self.authority.is_for_this_machine_only() && !names_this_machine(headers) {
            return Err(Problem::new(
                Kind::Misdirected,
                "While nobody has to say who they are this server answers to localhost and 127.0.0.1 only: create a key \
                with `newcycle keys create`, or let everybody in with NEWCYCLE_AUTHENTICATION=off",
            ));
        }
        let session = cookie::session(headers).filter(|_| is_of_this_origin(method, headers));
        let presented = match (bearer(headers)?, &session) {
            (Some(bearer), _) => Presented::Bearer(bearer),
            (None, Some(session)) => Presented::Session(session),
            (None, None) => Presented::Nothing,
        };
        let caller = match self.authority.authenticate(presented).await {
            Ok(caller) => caller,
            // Browsers send a cookie whether it is still good or not: its owner is then a stranger again.
            Err(_) if matches!(presented, Presented::Session(_)) => {
                self.authority.authenticate(Presented::Nothing).await?
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let holder = match &caller.identity {
            Some(identity) => Some(Arc::clone(&identity.id)),
            None if self.authority.is_open() => None,
            None => transport.map(|transport| format!("address:{}", transport.peer.ip()).into()),
        };
        Ok(Admitted { caller, holder, has_public_statistics: self.authority.has_public_statistics() })
    }
}

/// The key or token of the request.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
    match bearer {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(text.trim())),
        _ => Err(Problem::new(Kind::InvalidCredentials, "Send the key as `Authorization: Bearer nck_…`")),
    }
}

/// Whether the request is from a page of this server, or from none: only then the cookie says whose wish it is.
///
/// After Go's `http.CrossOriginProtection`: browsers say where a request comes from (`Sec-Fetch-Site`), and those that do
/// not send `Origin` with whatever may change something. `SameSite=Strict` alone would let through pages of other ports
/// and of sibling domains.
pub(super) fn is_of_this_origin(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").map(|(_, host)| host) == text(header::HOST),
        None => method.is_safe(),
    }
}

/// Whether the host that is asked for is this machine, whatever it is called elsewhere.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(authority) = host.to_str().unwrap_or("").parse::<axum::http::uri::Authority>() else { return false };
    let host = authority.host().to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// What a handler wants its caller to be allowed to.
pub(super) trait Policy {
    /// The scope that it takes.
    const SCOPE: Scope;
    /// Whether it is one of those that everybody may do where statistics are public.
    const IS_PUBLIC_STATISTICS: bool = false;
}

/// Inserting into the ledger.
pub(super) enum LedgerWrite {}
/// Reading the ledger.
pub(super) enum LedgerRead {}
/// Reading statistics, once and live.
pub(super) enum StatisticsRead {}
/// Reading the server's own figures, which are never public.
pub(super) enum FiguresRead {}

impl Policy for LedgerWrite {
    const SCOPE: Scope = Scope::LedgerWrite;
}
impl Policy for LedgerRead {
    const SCOPE: Scope = Scope::LedgerRead;
}
impl Policy for StatisticsRead {
    const SCOPE: Scope = Scope::StatisticsRead;
    const IS_PUBLIC_STATISTICS: bool = true;
}
impl Policy for FiguresRead {
    const SCOPE: Scope = Scope::StatisticsRead;
}

/// Proof that the caller may do what the handler does. It comes first in a handler's signature: who may not is told
/// nothing else.
pub(super) struct Allowed<P>(PhantomData<P>);

impl<P: Policy, S: Send + Sync> FromRequestParts<S> for Allowed<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Without a guard before it nothing is allowed.
        let Some(admitted) = parts.extensions.get::<Admitted>() else {
            return Err(Problem::new(Kind::Internal, "this route is not guarded"));
        };
        if admitted.caller.scopes.allow(P::SCOPE) || (P::IS_PUBLIC_STATISTICS && admitted.has_public_statistics) {
            return Ok(Self(PhantomData));
        }
        Err(match admitted.caller.identity {
            Some(_) => Problem::forbidden(P::SCOPE),
            None => Problem::new(
                Kind::Unauthenticated,
                "Say who you are: send a key as `Authorization: Bearer nck_…`, or sign in at the dashboard",
            ),
        })
    }
}

/// Proof that the request is not another site's doing: signing in and out happens without a key, or with the cookie alone.
pub(super) struct SameOrigin;

impl<S: Send + Sync> FromRequestParts<S> for SameOrigin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Programs that are no browsers send neither header, and have no cookies that somebody could use.
        let says_where = parts.headers.contains_key(header::ORIGIN) || parts.headers.contains_key("sec-fetch-site");
        if says_where && !is_of_this_origin(&parts.method, &parts.headers) {
            return Err(Problem::new(
                Kind::CrossOrigin,
                "A page of another origin sent this; only a page of this server may",
            ));
        }
        Ok(Self)
    }
}
