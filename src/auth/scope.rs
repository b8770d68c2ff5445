//! What a caller may do.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// One thing that a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum Scope {
    /// Insert base items, users, items and transfers.
    #[serde(rename = "ledger:write")]
    LedgerWrite,
    /// Read them, and who owns what.
    #[serde(rename = "ledger:read")]
    LedgerRead,
    /// Read the statistics, once and live, and the server's own figures.
    #[serde(rename = "statistics:read")]
    StatisticsRead,
    /// Start, watch, cancel and download exports of one's own.
    #[serde(rename = "exports")]
    Exports,
    /// Set up data streams, start and stop them.
    #[serde(rename = "streams:manage")]
    StreamsManage,
    /// Everything, also what belongs to others.
    #[serde(rename = "admin")]
    Admin,
}

/// The name of a scope that there is not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no scope {0:?}; the scopes are {all}", all = Scopes::ALL)]
pub struct UnknownScope(pub String);

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::LedgerWrite, Self::LedgerRead, Self::StatisticsRead, Self::Exports, Self::StreamsManage, Self::Admin];

    /// Its name on the command line, in tokens and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LedgerWrite => "ledger:write",
            Self::LedgerRead => "ledger:read",
            Self::StatisticsRead => "statistics:read",
            Self::Exports => "exports",
            Self::StreamsManage => "streams:manage",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self((1 << Scope::ALL.len()) - 1);

    /// Whether this is allowed: by its own name, or because everything is.
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Those that were given by name.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }

    /// Their names.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Scope::name).collect()
    }

    /// The scopes among these names. Others are left out: they mean something elsewhere, or in another version.
    pub fn known_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(|name| name.parse().ok()).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}

/// From the database, which holds no names but those of scopes; a later version may know more.
impl From<Vec<String>> for Scopes {
    fn from(names: Vec<String>) -> Self {
        Self::known_of(names.iter().map(String::as_str))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.names().join(", "))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_is_read_back_by_its_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
        }
    }

    #[test]
    fn an_unknown_scope_is_refused_with_the_names_of_those_there_are() {
        let error = "ledger:wirte".parse::<Scope>().expect_err("a typing error");
        assert_eq!(
            error.to_string(),
            "there is no scope \"ledger:wirte\"; the scopes are ledger:write, ledger:read, statistics:read, exports, \
            streams:manage, admin"
        );
    }

    #[test]
    fn a_scope_allows_itself_alone_and_admin_allows_everything() {
        for given in Scope::ALL {
            for asked in Scope::ALL {
                let allowed = Scopes::NONE.with(given).allow(asked);
                assert_eq!(allowed, given == asked || given == Scope::Admin, "{given} {asked}");
            }
        }
    }
}
