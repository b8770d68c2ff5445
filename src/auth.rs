//! Who a caller is, and what they may do.

mod scope;
mod token;

pub use scope::{Scope, Scopes, UnknownScope};
pub use token::{TokenError, TokenSettings, TokenSettingsError, TokenVerifier, VerifiedToken};
