//! What a handler wants its caller to be allowed to.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::Admitted;
use crate::auth::Scope;
use crate::http::problem::{Kind, Problem};

/// What a handler wants its caller to be allowed to.
pub(in crate::http) trait Policy {
    /// The scope that it takes.
    const SCOPE: Scope;
    /// Whether it is one of those that everybody may do where statistics are public.
    const IS_PUBLIC_STATISTICS: bool = false;
}

/// Inserting into the ledger.
pub(in crate::http) enum LedgerWrite {}
/// Reading the ledger.
pub(in crate::http) enum LedgerRead {}
/// Reading statistics, once and live.
pub(in crate::http) enum StatisticsRead {}
/// Reading the server's own figures, which are never public.
pub(in crate::http) enum FiguresRead {}
/// Starting, watching, cancelling and downloading exports. Whose they are is another question: see
/// [`Viewer`](crate::exports::Viewer).
pub(in crate::http) enum ManageExports {}

/// Creating, starting, stopping and reading data streams.
pub(in crate::http) enum ManageStreams {}

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
impl Policy for ManageExports {
    const SCOPE: Scope = Scope::Exports;
}
impl Policy for ManageStreams {
    const SCOPE: Scope = Scope::StreamsManage;
}

/// Proof that the caller may do what the handler does. It comes first in a handler's signature: who may not is told
/// nothing else.
pub(in crate::http) struct Allowed<P>(PhantomData<P>);

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
