//! Tokens for client credentials (RFC 6749, 4.4), kept until shortly before they are over: the next run takes the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::FetchError;
use super::client::Client;
use super::secrets::SecretText;

/// A token that is over so soon is replaced: it has to last for the request.
const MARGIN: Duration = Duration::from_secs(60);
/// What does not say how long it lasts is taken for so long.
const DEFAULT_SECONDS: u64 = 600;
/// Nor for longer than a day, whatever it says.
const MOST_SECONDS: u64 = 24 * 60 * 60;

/// What tokens are given for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) url: Url,
    pub(super) id: String,
    pub(super) secret: SecretText,
    pub(super) scope: Option<String>,
}

/// The tokens that a worker has. A shared handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens(Arc<Mutex<HashMap<Credentials, Token>>>);

#[derive(Debug)]
struct Token {
    token: SecretText,
    over_at: Instant,
}

impl Token {
    fn lasts(&self) -> bool {
        Instant::now() + MARGIN < self.over_at
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    expires_in: Option<u64>,
}

impl Tokens {
    /// A token that lasts for a request.
    pub(super) async fn get(&self, client: &Client, credentials: &Credentials) -> Result<SecretText, FetchError> {
        if let Some(token) = self.lock().get(credentials).filter(|token| token.lasts()) {
            return Ok(token.token.clone());
        }
        let Granted { access_token: token, expires_in } = credentials.show(client).await?;
        let lasts = Duration::from_secs(expires_in.unwrap_or(DEFAULT_SECONDS).min(MOST_SECONDS));
        let mut tokens = self.lock();
        // Those of streams that are no more go with time.
        tokens.retain(|_, token| token.lasts());
        tokens.insert(credentials.clone(), Token { token: token.clone(), over_at: Instant::now() + lasts });
        Ok(token)
    }

    /// Forgets the token: the source does not take it.
    pub(super) fn forget(&self, credentials: &Credentials) {
        self.lock().remove(credentials);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Credentials, Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credentials {
    /// Gets a token for them.
    async fn show(&self, client: &Client) -> Result<Granted, FetchError> {
        let form = [("grant_type", Some("client_credentials")), ("scope", self.scope.as_deref())];
        let form: Vec<_> = form.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // As the standard says (2.3.1): both are encoded as in a form before.
        let credentials = format!("{}:{}", encode(&self.id), encode(self.secret.expose()));
        let request = client
            .request(Method::POST, self.url.clone())?
            .header(AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(credentials)))
            .form(&form);
        let answer = client.send(request, &[&self.secret]).await.map_err(|error| match error {
            FetchError::User(reason) | FetchError::Denied(reason) => {
                FetchError::User(format!("No token can be had. {reason}"))
            }
            other => other,
        })?;
        serde_json::from_value(answer.body)
            .map_err(|_| FetchError::User("What answers at the token_url gives no access_token".to_owned()))
    }
}
