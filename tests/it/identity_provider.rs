//! An identity provider: a real one on a real socket, with keys made for the occasion.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderName, Response, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::Utc;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use newcycle::auth::TokenSettings;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

pub const ISSUER: &str = "https://id.example";
pub const AUDIENCE: &str = "newcycle";

/// A key of the provider.
#[derive(Clone)]
pub struct Signer {
    pub header: Header,
    pub secret: EncodingKey,
    pub public: Vec<u8>,
    pub jwk: Value,
}

impl Signer {
    pub fn new(id: &str, algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::ES384 => &PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &PKCS_ED25519,
            _ => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).expect("a key");
        let (der, public) = (pair.serialize_der(), pair.der_bytes().to_vec());
        let (secret, key) = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => (EncodingKey::from_ec_der(&der), DecodingKey::from_ec_der(&public)),
            Algorithm::EdDSA => (EncodingKey::from_ed_der(&der), DecodingKey::from_ed_der(&public)),
            // Without the 26 bytes in which PKCS #8 says that it is RSA.
            _ => (EncodingKey::from_rsa_der(&der[26..]), DecodingKey::from_rsa_der(&public)),
        };
        let jwk = Jwk::from_decoding_key(&key, None).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(id);
        jwk["use"] = json!("sig");
        let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
        Self { header, secret, public, jwk }
    }

    pub fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header, claims, &self.secret).expect("a token")
    }

    /// With another header, which the signature covers.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.secret, self.header.alg).expect("signed");
        format!("{message}.{signature}")
    }
}

pub fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// The claims of a good token but for these; null takes one away.
pub fn claims(changes: &Value) -> Value {
    let exp = Utc::now().timestamp() + 600;
    let mut claims =
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": exp, "scope": "ledger:read openid" });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

/// What the provider answers with.
pub type Answer = (StatusCode, (HeaderName, String), String);

pub fn document(keys: &[&Signer]) -> Answer {
    let keys: Vec<_> = keys.iter().map(|signer| &signer.jwk).collect();
    let content_type = (header::CONTENT_TYPE, "application/jwk-set+json".to_owned());
    (StatusCode::OK, content_type, json!({ "keys": keys }).to_string())
}

/// The identity provider, which counts how often somebody comes to ask.
pub struct Provider {
    pub address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    serving: AbortHandle,
}

impl Provider {
    pub async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let serving = {
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            tokio::spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (socket, _) = listener.accept().await.expect("a connection");
                    asked.fetch_add(1, Ordering::Relaxed);
                    let answer = Arc::clone(&answer);
                    let respond = service_fn(move |_| {
                        let (status, (name, value), body) = answer.lock().expect("no panic").clone();
                        let response = Response::builder().status(status).header(name, value);
                        async { response.body(Full::new(Bytes::from(body))) }
                    });
                    connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), respond));
                }
            })
            .abort_handle()
        };
        Self { address, answer, asked, serving }
    }

    pub fn set(&self, answer: Answer) {
        *self.answer.lock().expect("no panic") = answer;
    }

    /// Nobody listens there any more.
    pub fn stop(&self) {
        self.serving.abort();
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    pub fn settings(&self) -> TokenSettings {
        settings(&self.url())
    }
}

/// How to verify the tokens of a provider that has its keys there.
pub fn settings(jwks: &str) -> TokenSettings {
    TokenSettings {
        jwt_jwks: Some(jwks.to_owned()),
        jwt_issuer: Some(ISSUER.to_owned()),
        jwt_audience: Some(AUDIENCE.to_owned()),
        jwt_scopes_claim: "scope".to_owned(),
    }
}
