//! Who a caller is, and what they may do.

mod scope;

pub use scope::{Scope, Scopes, UnknownScope};
