//! What a source wants to be shown before it answers.

use std::fmt;

use reqwest::Url;
use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::client::check_url;
use crate::streams::definition::{Invalid, not_empty};

/// A text that is shown to nobody and logged nowhere.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password, min_length = 1)]
pub struct SecretText(String);

impl SecretText {
    /// The text, for where it has to go.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("…")
    }
}

/// How the worker says who it is. Kept encrypted, and shown to nobody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Bearer …`.
    Bearer {
        /// The token.
        token: SecretText,
    },
    /// `Authorization: Basic …`.
    Basic {
        /// Who it is.
        username: String,
        /// The password.
        password: SecretText,
    },
    /// A key in a header or in the query.
    Key {
        /// The header that it is sent in, for instance `X-API-Key`. Either this or `parameter`.
        #[schema(pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
        header: Option<String>,
        /// The parameter of the query that it is sent in.
        #[schema(min_length = 1)]
        parameter: Option<String>,
        /// The key.
        value: SecretText,
    },
    /// OAuth 2.0 client credentials (RFC 6749, 4.4): a token is fetched with them, and another one before that is over.
    Oauth2 {
        /// Where tokens are fetched.
        token_url: Url,
        /// Who it is.
        client_id: String,
        /// The secret.
        client_secret: SecretText,
        /// What the token shall be for, separated by spaces.
        scope: Option<String>,
    },
}

impl Auth {
    /// Which kind it is, which is all that is shown of it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bearer { .. } => "bearer",
            Self::Basic { .. } => "basic",
            Self::Key { .. } => "key",
            Self::Oauth2 { .. } => "oauth2",
        }
    }

    /// Checks what can be checked without asking anybody; names the field of it.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if self.secret().expose().is_empty() {
            let field = match self {
                Self::Bearer { .. } => "bearer.token",
                Self::Basic { .. } => "basic.password",
                Self::Key { .. } => "key.value",
                Self::Oauth2 { .. } => "oauth2.client_secret",
            };
            return Err(Invalid::new(field, "must not be empty"));
        }
        match self {
            Self::Key { header, parameter, .. } if header.is_some() == parameter.is_some() => {
                Err(Invalid::new("key", "takes either header or parameter"))
            }
            Self::Key { header: Some(header), .. } if header.parse::<HeaderName>().is_err() => {
                Err(Invalid::new("key.header", format!("{header:?} is no name of a header")))
            }
            Self::Key { parameter: Some(parameter), .. } => not_empty("key.parameter", parameter),
            Self::Oauth2 { token_url, .. } => {
                check_url(token_url).map_err(|reason| Invalid::new("oauth2.token_url", reason))
            }
            _ => Ok(()),
        }
    }

    /// What of it must not be seen.
    pub(super) fn secret(&self) -> &SecretText {
        match self {
            Self::Bearer { token: secret }
            | Self::Basic { password: secret, .. }
            | Self::Key { value: secret, .. }
            | Self::Oauth2 { client_secret: secret, .. } => secret,
        }
    }
}

/// For serde, which leaves out what it is asked about: always.
pub(super) fn hide(_: &Option<Auth>) -> bool {
    true
}
