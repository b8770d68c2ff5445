//! The settings that say who is let in.

use std::net::IpAddr;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::{Authority, Door, Settings, TokenSettings, TokenSettingsError, TokenVerifier};

/// Who is let in.
#[derive(Clone, Debug, clap::Args)]
pub struct AuthSettings {
    /// Whether callers have to say who they are, with a key of `newcycle keys` or a token. Unless said, whoever reaches the
    /// server on this machine may do everything until the first key is created; and on an address that others reach as
    /// well, the server does not start without a key
    #[arg(long, env = "NEWCYCLE_AUTHENTICATION", value_name = "WHEN", value_enum)]
    authentication: Option<Authentication>,
    /// Let everybody read the statistics, without a key
    #[arg(long, env = "NEWCYCLE_PUBLIC_STATISTICS", value_parser = BoolishValueParser::new())]
    public_statistics: bool,
    /// How long a browser stays signed in, such as 12h or 30d
    #[arg(
        long, env = "NEWCYCLE_SESSION_LIFETIME", value_name = "DURATION", default_value = "30d",
        value_parser = crate::duration::parse
    )]
    session_lifetime: Duration,
    #[command(flatten, next_help_heading = "Tokens of an identity provider")]
    tokens: TokenSettings,
}

/// Whether callers have to say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Authentication {
    /// They have to
    Required,
    /// They need not: everybody who reaches the server may do everything
    Off,
}

/// The server would be open to others than this machine, and nobody said that it shall.
#[derive(Debug, thiserror::Error)]
#[error(
    "others than this machine reach {host}, and there is no key that they would have to show. Create one with \
    `newcycle keys create --name NAME --scopes admin`, or, if everybody there may read and write everything, set \
    NEWCYCLE_AUTHENTICATION=off"
)]
pub struct OpenToOthers {
    host: IpAddr,
}

impl AuthSettings {
    /// What they mean for a server that listens at the address.
    pub fn at(&self, host: IpAddr) -> Result<Settings, TokenSettingsError> {
        let tokens = TokenVerifier::new(&self.tokens)?;
        let door = match self.authentication {
            Some(Authentication::Off) => Door::Open,
            None if host.is_loopback() && tokens.is_none() => Door::OpenUntilFirstKey,
            None | Some(Authentication::Required) => Door::Closed,
        };
        let Self { public_statistics, session_lifetime, .. } = *self;
        Ok(Settings { door, public_statistics, session_lifetime, tokens })
    }

    /// Whether everybody is let in because somebody said so.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.authentication, Some(Authentication::Off))
    }

    /// Whether it is left open who is let in, so that a server that others reach needs a key to start.
    pub(crate) fn is_unsaid(&self) -> bool {
        self.authentication.is_none()
    }

    /// Refuses to serve others without any key, unless that is what was asked for.
    pub fn check(&self, host: IpAddr, authority: &Authority) -> Result<(), OpenToOthers> {
        if self.authentication.is_none() && !host.is_loopback() && !authority.knows_anybody() {
            return Err(OpenToOthers { host });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::SESSION_LIFETIME;

    #[test]
    fn the_lifetime_of_sessions_is_what_the_help_says() {
        assert_eq!(humantime::parse_duration("30d"), Ok(SESSION_LIFETIME));
    }
}
