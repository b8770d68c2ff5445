//! Who a request is from.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::Scopes;
use crate::audit::Author;

/// Whoever sent a request, and what they may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What is allowed.
    pub scopes: Scopes,
    /// Who it is, if they said so.
    pub identity: Option<Identity>,
    /// Ends with the right to what was allowed: a revoked key's streams end with this.
    pub ended: CancellationToken,
}

/// Somebody who is known.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The same for everything that comes from the same key, or from the same subject of an identity provider. What belongs
    /// to somebody belongs to this.
    pub id: Arc<str>,
    /// For people to read.
    pub name: Arc<str>,
    /// How they said who they are.
    pub kind: IdentityKind,
    /// When that ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// How somebody said who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IdentityKind {
    /// With a key.
    Key,
    /// With the cookie of a browser that was signed in with a key.
    Session,
    /// With a token of an identity provider.
    Token,
}

impl From<&Identity> for Author {
    fn from(identity: &Identity) -> Self {
        let through = match identity.kind {
            IdentityKind::Key => "key",
            IdentityKind::Session => "session",
            IdentityKind::Token => "token",
        };
        Self { id: Arc::clone(&identity.id), name: Arc::clone(&identity.name), through }
    }
}
