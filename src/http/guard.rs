//! The guard before every route but those for health checks: who is it, may they come in at all, and so often?
//!
//! What a request must be allowed to is said by its handler, in its signature: [`Allowed`].

mod allowed;
mod origin;
mod refusals;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sqlx::PgPool;

pub(super) use allowed::{Allowed, FiguresRead, LedgerRead, LedgerWrite, ManageExports, ManageStreams, StatisticsRead};
pub(super) use origin::SameOrigin;

use refusals::Refusals;

use super::REQUEST_ID;
use super::connection::Transport;
use super::cookie;
use super::problem::{Kind, Problem};
use super::rate::{RateLimits, RateSettings, TrustedProxies, Verdict, client_address, forwarded_https};
use crate::audit::{self, Author};
use crate::auth::{Authority, Caller, Presented, Refusal};
use crate::hub::Holder;

/// How those are answered who are not let in.
const REFUSALS: [u16; 4] = [401, 403, 421, 429];

/// What the guard found out about a request. Handlers get it as an `Extension`.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) caller: Caller,
    /// Whose streams these are, where that is counted: the same key or subject, or else the same address. Nobody's while
    /// everybody may do everything.
    pub(super) holder: Option<Holder>,
    /// Whether nobody could read along, as far as the last trusted proxy.
    pub(super) is_encrypted: bool,
    has_public_statistics: bool,
}

/// What the guard goes by. A shared handle: every request clones it.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    authority: Authority,
    rates: RateLimits,
    proxies: TrustedProxies,
    refusals: Refusals,
    refused: Family<Refused, Counter>,
    pool: PgPool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    status: u16,
}

/// Lets a request in, or answers it.
pub(super) async fn guard(State(Guard(guard)): State<Guard>, mut request: Request, next: Next) -> Response {
    let mut found = Found::default();
    let transport = request.extensions().get::<Transport>().copied();
    let mut response = match guard.admit(request.method(), request.headers(), transport, &mut found).await {
        Ok(admitted) => {
            let author = admitted.author();
            request.extensions_mut().insert(admitted);
            match author.filter(|_| is_command(&request)) {
                Some(author) => guard.note(&author, request, next).await.unwrap_or_else(IntoResponse::into_response),
                None => next.run(request).await,
            }
        }
        Err(problem) => problem.into_response(),
    };
    guard.rates.tell(found.key, found.address, response.headers_mut());
    let status = response.status();
    if is_refusal(status) {
        guard.refused.get_or_create(&Refused { status: status.as_u16() }).inc();
        guard.refusals.wait(found.who, status == StatusCode::TOO_MANY_REQUESTS).await;
    }
    response
}

/// Whether an answer says that its request was not let in: it comes later than it could.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    REFUSALS.contains(&status.as_u16())
}

/// What was found out about a request, also one that is refused.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// What stands for who sent it, as well as that is known.
    who: u64,
    /// What the rate limits say, as far as they were asked.
    key: Option<Verdict>,
    address: Option<Verdict>,
}

impl Guard {
    /// One that goes by these settings.
    pub(super) fn new(authority: Authority, rates: RateSettings, pool: PgPool, registry: &mut Registry) -> Self {
        let refused = Family::<Refused, Counter>::default();
        for status in REFUSALS {
            // What begins with the first one is not seen to have grown.
            let _ = refused.get_or_create_owned(&Refused { status });
        }
        registry.register(
            "refused_requests",
            "Requests that the guard did not let in, by status",
            Family::clone(&refused),
        );
        let limits = RateLimits::new(&rates);
        let proxies = rates.trusted_proxies;
        Self(Arc::new(Inner { authority, rates: limits, proxies, refusals: Refusals::new(), refused, pool }))
    }
}

/// Whether the request is to change something about exports or data streams. What is inserted into the ledger is noted with
/// its rows.
fn is_command(request: &Request) -> bool {
    const COMMANDED: [&str; 3] = ["/exports", "/streams", "/dead-letters"];
    !request.method().is_safe() && COMMANDED.iter().any(|path| request.uri().path().starts_with(path))
}

impl Admitted {
    /// In whose name something is written.
    pub(super) fn author(&self) -> Option<Author> {
        self.caller.identity.as_ref().map(Author::from)
    }
}

impl Inner {
    /// Answers a command, which is noted before it is done.
    async fn note(&self, author: &Author, request: Request, next: Next) -> Result<Response, Problem> {
        let action = format!("{} {}", request.method(), request.uri().path());
        let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let entry = audit::begin(&self.pool, author, &action, id).await?;
        let response = next.run(request).await;
        if let Err(error) = audit::end(&self.pool, entry, response.status().as_u16()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, action, "how this was answered is not noted");
        }
        Ok(response)
    }

    async fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        transport: Option<Transport>,
        found: &mut Found,
    ) -> Result<Admitted, Problem> {
        let Some(Transport { peer, is_encrypted }) = transport else {
            return Err(Problem::new(Kind::Internal, "this request came by no connection"));
        };
        let address = client_address(peer.ip(), headers, &self.proxies);
        found.who = self.refusals.of(&address);
        found.address = self.rates.check_address(address);
        let too_many = |detail: &str| Problem::new(Kind::TooManyRequests, detail);
        if found.address.is_some_and(|verdict| !verdict.is_allowed) {
            return Err(too_many(
                "Your address has sent as many requests as it may: come again after Retry-After seconds",
            ));
        }
        if self.authority.is_for_this_machine_only() && !origin::names_this_machine(headers) {
            return Err(Problem::new(
                Kind::Misdirected,
                "While nobody has to say who they are this server answers to localhost and 127.0.0.1 only: create a key \
                with `newcycle keys create`, or let everybody in with NEWCYCLE_AUTHENTICATION=off",
            ));
        }
        let caller = self.caller(method, headers).await?;
        if let Some(identity) = &caller.identity {
            found.who = self.refusals.of(&identity.id);
            found.key = self.rates.check_key(&identity.id);
        }
        if found.key.is_some_and(|verdict| !verdict.is_allowed) {
            return Err(too_many("Your key has sent as many requests as it may: come again after Retry-After seconds"));
        }
        let is_counted = caller.identity.is_some() || !self.authority.is_open();
        Ok(Admitted {
            caller,
            holder: is_counted.then(|| Holder::new(found.who)),
            is_encrypted: is_encrypted || forwarded_https(peer.ip(), headers, &self.proxies),
            has_public_statistics: self.authority.has_public_statistics(),
        })
    }

    async fn caller(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
        // Where nobody has to say who they are, what they say is for somebody else: a proxy that asks for passwords, say.
        if self.authority.is_open() {
            return Ok(self.authority.authenticate(Presented::Nothing).await?);
        }
        let session = cookie::session(headers).filter(|_| origin::is_of_this_origin(method, headers));
        let presented = match (bearer(headers)?, &session) {
            (Some(bearer), _) => Presented::Bearer(bearer),
            (None, Some(session)) => Presented::Session(session),
            (None, None) => Presented::Nothing,
        };
        match self.authority.authenticate(presented).await {
            Ok(caller) => Ok(caller),
            // Browsers send a cookie whether it is still good or not: its owner is then a stranger again.
            Err(Refusal::SessionEnded) => Ok(self.authority.authenticate(Presented::Nothing).await?),
            Err(refusal) => Err(refusal.into()),
        }
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
