//! Who a caller is, and what they may do: API keys, sessions of browsers, and scopes.
//!
//! Keys and sessions are rows (`migrations/0007_keys.sql`); each server holds a copy of them, which [`Authority::run`]
//! keeps true. [`keys`] is for operators, at the command line.
//!
//! **Invariant:** nothing here knows HTTP. What a request must be allowed to is said where it is handled, in the
//! signature of its handler.

mod authority;
mod caller;
pub mod keys;
mod registry;
mod scope;
mod secret;
mod sessions;
mod settings;
mod token;

pub use authority::{Authority, Door, Presented, Refusal, SESSION_LIFETIME, Settings, SignInError};
pub use caller::{Caller, Identity, IdentityKind};
pub use keys::{Key, KeyError};
pub use scope::{Scope, Scopes, UnknownScope};
pub use secret::{Secret, SecretHash, key_id};
pub use settings::{AuthSettings, OpenToOthers};
#[cfg(any(test, fuzzing))]
pub(crate) use token::fuzzing;
pub use token::{TokenError, TokenSettings, TokenSettingsError, TokenVerifier, VerifiedToken};
