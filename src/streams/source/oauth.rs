//! Tokens for client credentials (RFC 6749, 4.4), kept until shortly before they are over.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::FetchError;
use super::client::Client;
use super::secrets::SecretText;

/// A token that is over so soon is replaced: it has to last for the request.
const MARGIN: Duration = Duration::from_secs(60);
/// What does not say how long it lasts is taken for so long.
const DEFAULT_SECONDS: u64 = 600;

/// Gets tokens.
pub(super) struct Tokens {
    client: Client,
    url: Url,
    id: String,
    secret: SecretText,
    scope: Option<String>,
    current: Mutex<Option<Token>>,
}

struct Token {
    token: SecretText,
    over_at: Instant,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    expires_in: Option<u64>,
}

impl Tokens {
    pub(super) fn new(client: Client, url: Url, id: String, secret: SecretText, scope: Option<String>) -> Self {
        Self { client, url, id, secret, scope, current: Mutex::new(None) }
    }

    /// A token that lasts for a request.
    pub(super) async fn get(&self) -> Result<SecretText, FetchError> {
        let mut current = self.current.lock().await;
        if let Some(Token { token, over_at }) = &*current
            && Instant::now() + MARGIN < *over_at
        {
            return Ok(token.clone());
        }
        let granted = self.fetch().await?;
        let lasts = Duration::from_secs(granted.expires_in.unwrap_or(DEFAULT_SECONDS));
        *current = Some(Token { token: granted.access_token.clone(), over_at: Instant::now() + lasts });
        Ok(granted.access_token)
    }

    /// Forgets the token: the source does not take it.
    pub(super) async fn forget(&self) {
        *self.current.lock().await = None;
    }

    async fn fetch(&self) -> Result<Granted, FetchError> {
        let form = [("grant_type", Some("client_credentials")), ("scope", self.scope.as_deref())];
        let form: Vec<_> = form.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // As the standard says (2.3.1): both are encoded as in a form before.
        let credentials = format!("{}:{}", encode(&self.id), encode(self.secret.expose()));
        let request = self
            .client
            .request(Method::POST, self.url.clone())?
            .header(AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(credentials)))
            .form(&form);
        let answer = self.client.send(request, &[&self.secret]).await.map_err(|error| match error {
            FetchError::User(reason) | FetchError::Denied(reason) => {
                FetchError::User(format!("No token can be had. {reason}"))
            }
            other => other,
        })?;
        serde_json::from_value(answer.body)
            .map_err(|_| FetchError::User("What answers at the token_url gives no access_token".to_owned()))
    }
}
