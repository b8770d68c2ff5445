//! Says who a request is from.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::registry::{Credential, Registry, Rejected};
use super::{
    Caller, Identity, IdentityKind, KeyError, Scopes, Secret, TokenError, TokenVerifier, VerifiedToken, sessions,
};

/// Who is let in without saying who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// Everybody, and they may do everything.
    Open,
    /// Everybody until there is a key; from then on nobody.
    #[default]
    OpenUntilFirstKey,
    /// Nobody.
    Closed,
}

/// How callers are told apart.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is let in without saying who they are.
    pub door: Door,
    /// Whether everybody may read statistics.
    pub public_statistics: bool,
    /// How long a browser stays signed in.
    pub session_lifetime: Duration,
    /// The identity provider whose tokens are good, if there is one.
    pub tokens: Option<TokenVerifier>,
}

/// A session lasts so long unless told otherwise: pages are open for weeks, and a session can be ended at any time.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Default for Settings {
    fn default() -> Self {
        Self { door: Door::default(), public_statistics: false, session_lifetime: SESSION_LIFETIME, tokens: None }
    }
}

/// What a request says of who sent it.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'a> {
    /// Nothing.
    Nothing,
    /// A key or a token.
    Bearer(&'a str),
    /// The cookie of a session.
    Session(&'a str),
}

/// Why somebody is not believed. The text is for them: who does not hold a good secret learns nothing from it but that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has the form neither of a key nor of a token.
    #[error("This is not a key: keys begin with nck_ and have 69 characters; look whether it was copied as a whole")]
    Malformed,
    /// No such key.
    #[error("This key is not valid")]
    Unknown,
    /// The key was good up to then.
    #[error("This key expired at {}", .0.to_rfc3339_opts(SecondsFormat::Secs, true))]
    Expired(DateTime<Utc>),
    /// The key was good until somebody ended it.
    #[error("This key was revoked")]
    Revoked,
    /// The session is over.
    #[error("The session has ended: sign in again")]
    SessionEnded,
    /// Nobody can say.
    #[error("Whether this is good cannot be looked up at the moment")]
    Unavailable,
    /// The token is not good.
    #[error("{}", .0.public_description())]
    Token(#[from] TokenError),
}

/// Decides who callers are. A shared handle.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    settings: Settings,
}

impl Authority {
    /// Reads the keys that there are.
    pub async fn load(pool: PgPool, settings: Settings) -> Result<Self, sqlx::Error> {
        let registry = Registry::load(pool).await?;
        Ok(Self(Arc::new(Inner { registry, settings })))
    }

    /// Keeps what is known true until the end.
    pub async fn run(self, stop: CancellationToken) {
        let tokens = async {
            if let Some(tokens) = self.0.settings.tokens.clone() {
                tokens.run(stop.clone()).await;
            }
        };
        tokio::join!(self.0.registry.run(stop.clone()), tokens);
    }

    /// Whether there is anybody who could come in by a key or a token.
    pub fn knows_anybody(&self) -> bool {
        self.has_keys() || self.0.settings.tokens.is_some()
    }

    /// Whether there has ever been a key.
    fn has_keys(&self) -> bool {
        self.0.registry.first_key().is_cancelled()
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        match self.0.settings.door {
            Door::Open => true,
            Door::Closed => false,
            Door::OpenUntilFirstKey => !self.has_keys(),
        }
    }

    /// Whether those are refused who call this server by a name that is not this machine's. While the door is open a page of
    /// any site could else have its own name lead here, and read and write by its visitor's browser (DNS rebinding).
    pub fn is_for_this_machine_only(&self) -> bool {
        self.0.settings.door == Door::OpenUntilFirstKey && self.is_open()
    }

    /// Whether everybody may read statistics.
    pub fn has_public_statistics(&self) -> bool {
        self.0.settings.public_statistics
    }

    /// Who it is.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Caller, Refusal> {
        if self.is_open() {
            // Who came in while the door was open has to leave when it closes.
            let ended = match self.0.settings.door {
                Door::OpenUntilFirstKey => self.0.registry.first_key().clone(),
                Door::Open | Door::Closed => CancellationToken::new(),
            };
            return Ok(Caller { scopes: Scopes::ALL, identity: None, ended });
        }
        match presented {
            Presented::Nothing => Ok(Caller { scopes: Scopes::NONE, identity: None, ended: CancellationToken::new() }),
            Presented::Bearer(text) => {
                if let Some(tokens) = &self.0.settings.tokens
                    && !Secret::looks_like_a_key(text)
                {
                    return Ok(tokens.verify(text).await?.into());
                }
                let secret = Secret::of_key(text).ok_or(Refusal::Malformed)?;
                let credential = self.0.registry.key(&secret).await?;
                Ok(Caller::with(&credential, IdentityKind::Key))
            }
            Presented::Session(text) => {
                let secret = Secret::of_session(text).ok_or(Refusal::SessionEnded)?;
                let session = self.0.registry.session(&secret).await.map_err(|rejected| match rejected {
                    Rejected::Unavailable => Refusal::Unavailable,
                    Rejected::Unknown | Rejected::Expired(_) | Rejected::Revoked => Refusal::SessionEnded,
                })?;
                Ok(Caller::with(&session, IdentityKind::Session))
            }
        }
    }

    /// Begins a session with a key: its secret, when it ends, and who the caller is from now on.
    pub async fn sign_in(&self, pool: &PgPool, key: &str) -> Result<(Secret, DateTime<Utc>, Caller), SignInError> {
        let secret = Secret::of_key(key).ok_or(Refusal::Malformed)?;
        let credential = self.0.registry.key(&secret).await.map_err(Refusal::from)?;
        let longest = Utc::now() + self.0.settings.session_lifetime;
        let expires_at = credential.expires_at.map_or(longest, |at| at.min(longest));
        let session = sessions::begin(pool, secret.id(), credential.key_secret, expires_at).await?;
        self.0.registry.refresh().await.map_err(KeyError::from)?;
        let Ok(begun) = self.0.registry.session(&session).await else {
            // The key has ended since this server last looked.
            self.0.registry.key(&secret).await.map_err(Refusal::from)?;
            return Err(Refusal::SessionEnded.into());
        };
        Ok((session, expires_at, Caller::with(&begun, IdentityKind::Session)))
    }

    /// Ends a session, if it is one.
    pub async fn sign_out(&self, pool: &PgPool, session: &str) -> Result<(), KeyError> {
        let Some(secret) = Secret::of_session(session) else { return Ok(()) };
        // Whoever knows only its id cannot end it.
        if self.0.registry.session(&secret).await.is_ok() {
            sessions::end(pool, secret.id()).await?;
            self.0.registry.refresh().await?;
        }
        Ok(())
    }
}

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The key is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session could not be kept.
    #[error(transparent)]
    Failed(#[from] KeyError),
}

impl Caller {
    fn with(credential: &Credential, kind: IdentityKind) -> Self {
        let key = &credential.key;
        let identity =
            Identity { id: Arc::clone(&key.id), name: Arc::clone(&key.name), kind, expires_at: credential.expires_at };
        Self { scopes: key.scopes, identity: Some(identity), ended: credential.ended.clone() }
    }
}

impl From<VerifiedToken> for Caller {
    fn from(token: VerifiedToken) -> Self {
        let VerifiedToken { subject, scopes, expires_at } = token;
        let identity = Identity {
            id: format!("token:{subject}").into(),
            name: subject.into(),
            kind: IdentityKind::Token,
            expires_at: Some(expires_at),
        };
        // A token cannot be taken back: it ends by itself.
        Self { scopes, identity: Some(identity), ended: CancellationToken::new() }
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Unknown => Self::Unknown,
            Rejected::Expired(at) => Self::Expired(at),
            Rejected::Revoked => Self::Revoked,
            Rejected::Unavailable => Self::Unavailable,
        }
    }
}
