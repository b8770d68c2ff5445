//! Tokens of an identity provider: which are accepted, and which are not, whatever they say about themselves.

use std::path::Path;
use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use newcycle::auth::{Scope, Scopes, TokenError, TokenSettings, TokenVerifier, VerifiedToken};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::identity_provider::{AUDIENCE, Provider, Signer, claims, document, message, settings};

/// RSA keys take long to find: all tests share this one.
static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::new("rsa", Algorithm::RS256));

/// A verifier at work.
struct Verifier {
    verifier: TokenVerifier,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Verifier {
    fn start(settings: &TokenSettings) -> Self {
        let verifier = TokenVerifier::new(settings).expect("settings").expect("a provider");
        let stop = CancellationToken::new();
        let task = tokio::spawn(verifier.clone().run(stop.clone()));
        Self { verifier, stop, task }
    }

    async fn verify(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        self.verifier.verify(token).await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

/// A provider with these keys, and who verifies its tokens.
async fn with_keys(keys: &[&Signer]) -> (Provider, Verifier) {
    let provider = Provider::start(document(keys)).await;
    let verifier = Verifier::start(&provider.settings());
    (provider, verifier)
}

#[tokio::test]
async fn tokens_of_the_provider_are_accepted_whatever_kind_of_key_it_has() {
    let (p256, p384) = (Signer::new("p256", Algorithm::ES256), Signer::new("p384", Algorithm::ES384));
    let ed25519 = Signer::new("ed25519", Algorithm::EdDSA);
    let (provider, verifier) = with_keys(&[&RSA, &p256, &p384, &ed25519]).await;
    let mut signers = vec![p256, p384, ed25519];
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let mut signer = RSA.clone();
        signer.header.alg = algorithm.parse().expect("an algorithm");
        signers.push(signer);
    }
    for signer in signers {
        let claims = claims(&json!({}));
        let verified = verifier.verify(&signer.sign(&claims)).await.expect("a good token");
        assert_eq!(verified.subject, "alice");
        assert_eq!(verified.scopes, Scopes::NONE.with(Scope::LedgerRead));
        assert_eq!(verified.expires_at.timestamp(), claims["exp"]);
        // Remembered, and still the same.
        assert_eq!(verifier.verify(&signer.sign(&claims)).await, Ok(verified));
    }
    assert_eq!(provider.asked(), 1);
    verifier.stop().await;
}

#[tokio::test]
async fn a_token_that_somebody_changed_is_refused() {
    let signer = Signer::new("a", Algorithm::ES256);
    let (_provider, verifier) = with_keys(&[&signer]).await;
    let good = signer.sign(&claims(&json!({})));
    verifier.verify(&good).await.expect("a good token");
    let (message, signature) = good.rsplit_once('.').expect("a signature");
    let header = message.split_once('.').expect("a header").0;
    let more = URL_SAFE_NO_PAD.encode(claims(&json!({ "scope": "admin" })).to_string());
    for forged in [format!("{header}.{more}.{signature}"), format!("{message}."), format!("{message}.AAAA")] {
        assert_eq!(verifier.verify(&forged).await, Err(TokenError::BadSignature));
    }
    let stranger = Signer::new("a", Algorithm::ES256);
    assert_eq!(verifier.verify(&stranger.sign(&claims(&json!({})))).await, Err(TokenError::BadSignature));
    for nonsense in ["", "abc", &good[..20], &format!("{good}.x"), &"a".repeat(10_000)] {
        assert!(matches!(verifier.verify(nonsense).await, Err(TokenError::Malformed(_))));
    }
    verifier.stop().await;
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let (_provider, verifier) = with_keys(&[&RSA]).await;
    let claims = claims(&json!({}));
    let text = RSA.jwk.to_string();
    let modulus = URL_SAFE_NO_PAD.decode(RSA.jwk["n"].as_str().expect("a modulus")).expect("base64");
    for known in [RSA.public.as_slice(), text.as_bytes(), &modulus] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header { kid: Some("rsa".to_owned()), ..Header::new(algorithm) };
            let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(known)).expect("a token");
            assert_eq!(verifier.verify(&token).await, Err(TokenError::AlgorithmNotAllowed));
        }
    }
    verifier.stop().await;
}

#[tokio::test]
async fn secrets_among_the_keys_are_never_used() {
    let mut provided = Signer::new("a", Algorithm::ES256);
    let secret = b"everybody who can read the set knows this";
    let oct = json!({ "kty": "oct", "kid": "oct", "k": URL_SAFE_NO_PAD.encode(secret), "alg": "HS256" });
    let shared = Signer { jwk: oct, ..provided.clone() };
    provided.jwk["alg"] = json!("ES256");
    let (_provider, verifier) = with_keys(&[&provided, &shared]).await;
    let header = Header { kid: Some("oct".to_owned()), ..Header::new(Algorithm::HS256) };
    let token = jsonwebtoken::encode(&header, &claims(&json!({})), &EncodingKey::from_secret(secret)).expect("a token");
    assert_eq!(verifier.verify(&token).await, Err(TokenError::AlgorithmNotAllowed));
    let claims = claims(&json!({}));
    let token = provided.sign_with(&json!({ "alg": "ES256", "kid": "oct" }), &claims);
    assert_eq!(verifier.verify(&token).await, Err(TokenError::UnknownKey));
    verifier.stop().await;
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused_however_it_says_so() {
    let (_provider, verifier) = with_keys(&[&RSA]).await;
    for algorithm in ["none", "None", "NONE", "nOnE"] {
        for header in [json!({ "alg": algorithm }), json!({ "alg": algorithm, "kid": "rsa" })] {
            let token = format!("{}.", message(&header, &claims(&json!({}))));
            assert_eq!(verifier.verify(&token).await, Err(TokenError::AlgorithmNotAllowed));
        }
    }
    verifier.stop().await;
}

#[tokio::test]
async fn a_key_is_used_with_no_algorithm_but_its_own() {
    let p256 = Signer::new("p256", Algorithm::ES256);
    let mut only_ps256 = RSA.clone();
    only_ps256.jwk["alg"] = json!("PS256");
    let (_provider, verifier) = with_keys(&[&only_ps256, &p256]).await;
    let claims = claims(&json!({}));
    assert_eq!(verifier.verify(&RSA.sign(&claims)).await, Err(TokenError::AlgorithmNotAllowed));
    for (signer, header) in [
        (&*RSA, json!({ "alg": "RS256", "kid": "p256" })),
        (&p256, json!({ "alg": "ES384", "kid": "p256" })),
        (&p256, json!({ "alg": "EdDSA", "kid": "p256" })),
        (&p256, json!({ "alg": "ES256", "kid": "rsa" })),
    ] {
        let token = signer.sign_with(&header, &claims);
        assert_eq!(verifier.verify(&token).await, Err(TokenError::AlgorithmNotAllowed), "{header}");
    }
    verifier.stop().await;
}

#[tokio::test]
async fn keys_that_a_token_brings_along_are_not_used() {
    let (stranger, signer) = (Signer::new("a", Algorithm::ES256), Signer::new("a", Algorithm::ES256));
    let elsewhere = Provider::start(document(&[&stranger])).await;
    let (_provider, verifier) = with_keys(&[&signer]).await;
    let claims = claims(&json!({}));
    for brought in
        [json!({ "jwk": stranger.jwk }), json!({ "jku": elsewhere.url() }), json!({ "x5u": elsewhere.url() })]
    {
        let mut header = json!({ "alg": "ES256", "kid": "a" });
        header.as_object_mut().expect("an object").extend(brought.as_object().expect("an object").clone());
        assert_eq!(verifier.verify(&stranger.sign_with(&header, &claims)).await, Err(TokenError::BadSignature));
        // Nor do they harm a token that needs none of them.
        verifier.verify(&signer.sign_with(&header, &claims)).await.expect("a good token");
    }
    assert_eq!(elsewhere.asked(), 0);
    let critical = json!({ "alg": "ES256", "kid": "a", "crit": ["http://newcycle.example/x"] });
    let refused = verifier.verify(&signer.sign_with(&critical, &claims)).await;
    assert!(matches!(refused, Err(TokenError::Malformed(_))), "{refused:?}");
    verifier.stop().await;
}

#[tokio::test]
async fn a_token_has_to_be_for_us_and_now() {
    let signer = Signer::new("a", Algorithm::EdDSA);
    let (_provider, verifier) = with_keys(&[&signer]).await;
    let now = Utc::now().timestamp();
    for (changes, expected) in [
        (json!({ "iss": "https://id.example.org" }), TokenError::WrongIssuer),
        (json!({ "iss": null }), TokenError::MissingClaim("iss")),
        (json!({ "aud": "somebody-else" }), TokenError::WrongAudience),
        (json!({ "aud": ["somebody-else"] }), TokenError::WrongAudience),
        (json!({ "aud": null }), TokenError::MissingClaim("aud")),
        (json!({ "exp": null }), TokenError::MissingClaim("exp")),
        (json!({ "nbf": now + 600 }), TokenError::NotYetValid),
        (json!({ "sub": null }), TokenError::MissingClaim("sub")),
        (json!({ "sub": "" }), TokenError::MissingClaim("sub")),
    ] {
        assert_eq!(verifier.verify(&signer.sign(&claims(&changes))).await, Err(expected), "{changes}");
    }
    let expired = verifier.verify(&signer.sign(&claims(&json!({ "exp": now - 600 })))).await;
    assert!(matches!(expired, Err(TokenError::Expired { at }) if at.timestamp() == now - 600), "{expired:?}");
    // But who cannot sign is told none of this.
    let stranger = Signer::new("a", Algorithm::EdDSA).sign(&claims(&json!({ "exp": now - 600 })));
    assert_eq!(verifier.verify(&stranger).await, Err(TokenError::BadSignature));
    verifier
        .verify(&signer.sign(&claims(&json!({ "aud": ["other", AUDIENCE], "nbf": now }))))
        .await
        .expect("a good token");
    verifier.stop().await;
}

#[tokio::test]
async fn scopes_are_where_the_settings_say() {
    let signer = Signer::new("a", Algorithm::EdDSA);
    let provider = Provider::start(document(&[&signer])).await;
    let expected = Scopes::NONE.with(Scope::Exports).with(Scope::LedgerWrite);
    for (claim, changes) in [
        ("scope", json!({ "scope": "exports ledger:write unheard-of" })),
        ("", json!({ "scope": "exports ledger:write" })),
        ("permissions", json!({ "permissions": ["exports", "ledger:write", "unheard-of"] })),
        ("realm_access.roles", json!({ "realm_access": { "roles": ["ledger:write", "exports"] } })),
    ] {
        let verifier = Verifier::start(&TokenSettings { jwt_scopes_claim: claim.to_owned(), ..provider.settings() });
        let verified = verifier.verify(&signer.sign(&claims(&changes))).await.expect("a good token");
        assert_eq!(verified.scopes, expected, "{claim}");
        verifier.stop().await;
    }
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_when_the_first_token_names_it() {
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let (provider, verifier) = with_keys(&[&old]).await;
    let token = old.sign(&claims(&json!({})));
    verifier.verify(&token).await.expect("a good token");
    provider.set(document(&[&new]));
    verifier.verify(&new.sign(&claims(&json!({})))).await.expect("a good token");
    assert_eq!(provider.asked(), 2);
    // What was verified under a key that is no more has to be so again.
    assert_eq!(verifier.verify(&token).await, Err(TokenError::UnknownKey));
    verifier.stop().await;
}

#[tokio::test]
async fn keys_without_names_are_replaced_as_well() {
    let mut signers = [Signer::new("", Algorithm::ES256), Signer::new("", Algorithm::ES256)];
    for signer in &mut signers {
        signer.header.kid = None;
        signer.jwk.as_object_mut().expect("an object").remove("kid");
    }
    let [old, new] = signers;
    let (provider, verifier) = with_keys(&[&old]).await;
    verifier.verify(&old.sign(&claims(&json!({})))).await.expect("a good token");
    provider.set(document(&[&new]));
    verifier.verify(&new.sign(&claims(&json!({})))).await.expect("a good token");
    assert_eq!(provider.asked(), 2);
    verifier.stop().await;
}

#[tokio::test]
async fn tokens_with_made_up_keys_do_not_make_us_a_burden_to_the_provider() {
    let signer = Signer::new("a", Algorithm::EdDSA);
    let (provider, verifier) = with_keys(&[&signer]).await;
    let good = signer.sign(&claims(&json!({})));
    verifier.verify(&good).await.expect("a good token");
    let made_up: Vec<_> = (0..200)
        .map(|number| signer.sign_with(&json!({ "alg": "EdDSA", "kid": number.to_string() }), &claims(&json!({}))))
        .collect();
    for _ in 0..2 {
        for outcome in join_all(made_up.iter().map(|token| verifier.verify(token))).await {
            assert_eq!(outcome, Err(TokenError::UnknownKey));
        }
    }
    assert_eq!(provider.asked(), 2, "once to begin with, once for all of them");
    verifier.verify(&good).await.expect("a good token");
    verifier.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_down_does_not_lock_its_users_out() {
    let signer = Signer::new("a", Algorithm::ES256);
    let (provider, verifier) = with_keys(&[&signer]).await;
    verifier.verify(&signer.sign(&claims(&json!({})))).await.expect("a good token");
    provider.stop();
    let unknown = signer.sign_with(&json!({ "alg": "ES256", "kid": "b" }), &claims(&json!({})));
    assert_eq!(verifier.verify(&unknown).await, Err(TokenError::UnknownKey));
    verifier.verify(&signer.sign(&claims(&json!({ "sub": "bob" })))).await.expect("a good token");
    verifier.stop().await;
}

#[tokio::test]
async fn without_keys_nobody_can_say() {
    let signer = Signer::new("a", Algorithm::ES256);
    let content_type = document(&[]).1;
    let too_long = format!("{}{}", document(&[&signer]).2, " ".repeat(1024 * 1024));
    for answer in [
        document(&[]),
        (StatusCode::SERVICE_UNAVAILABLE, content_type.clone(), document(&[&signer]).2),
        (StatusCode::OK, content_type.clone(), "<html>".to_owned()),
        (StatusCode::OK, content_type, too_long),
    ] {
        let provider = Provider::start(answer).await;
        let verifier = Verifier::start(&provider.settings());
        assert_eq!(verifier.verify(&signer.sign(&claims(&json!({})))).await, Err(TokenError::Unavailable));
        assert_eq!(provider.asked(), 1);
        verifier.stop().await;
    }
}

#[tokio::test]
async fn keys_are_not_fetched_from_where_a_redirection_leads_into_danger() {
    let signer = Signer::new("a", Algorithm::ES256);
    let destination = Provider::start(document(&[&signer])).await;
    let port = destination.address.port();
    let moved = |to: String| (StatusCode::FOUND, (header::LOCATION, to), String::new());
    // 0.0.0.0 leads to this machine too, but does not say so.
    for (to, expected) in [
        (format!("http://localhost:{port}/keys"), Ok(())),
        (format!("http://0.0.0.0:{port}/keys"), Err(TokenError::Unavailable)),
        (format!("https://127.0.0.1:{port}/keys"), Err(TokenError::Unavailable)),
    ] {
        let provider = Provider::start(moved(to)).await;
        let verifier = Verifier::start(&provider.settings());
        assert_eq!(verifier.verify(&signer.sign(&claims(&json!({})))).await.map(|_| ()), expected);
        verifier.stop().await;
    }
    assert_eq!(destination.asked(), 1);
}

#[tokio::test]
async fn keys_come_from_a_file_too_and_are_read_again_when_it_changes() {
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("keys.json");
    let write =
        |file: &Path, signer: &Signer| std::fs::write(file, document(&[signer]).2).expect("the file is written");
    write(&file, &old);
    let verifier = Verifier::start(&settings(file.to_str().expect("a path")));
    verifier.verify(&old.sign(&claims(&json!({})))).await.expect("a good token");
    write(&file, &new);
    verifier.verify(&new.sign(&claims(&json!({})))).await.expect("a good token");
    assert_eq!(verifier.verify(&old.sign(&claims(&json!({})))).await, Err(TokenError::UnknownKey));
    verifier.stop().await;
}
