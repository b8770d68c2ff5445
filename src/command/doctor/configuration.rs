//! The settings: whether they agree with each other and with the files and limits of this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::{TimeDelta, Utc};

use super::finding::{Finding, Report};
use super::questions::{Questions, Unanswered};
use crate::command::serve::ServeSettings;
use crate::database::DatabaseSettings;
use crate::http::TrustedProxies;
use crate::streams::ENCRYPTION_KEY_FILE;

/// Certificates are renewed a month before their end; who sees this has a renewal that does not work.
const DAYS_LEFT: i64 = 14;

/// Everything that takes no database.
pub(super) async fn check(serve: &ServeSettings, database: &DatabaseSettings, report: &mut Report) {
    report.add_or("limits", limits(serve, database), "the limits fit each other and the limit of open files");
    report.add_or("tls", tls(serve), "the certificate can be used");
    report.add_or("encryption", encryption_key(serve, &database.data_dir), "the key for secrets is its owner's alone");
    report.add_or("tokens", tokens(serve).await, "no identity provider is set");
}

fn limits(serve: &ServeSettings, database: &DatabaseSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = serve.connections.raise_file_limit() {
        findings
            .push(Finding::problem(error.to_string(), "LimitNOFILE=65536 in the systemd unit, or --max-connections"));
    }
    let (places, streams) = (serve.connections.places(), serve.limits.max_streams);
    if streams > places {
        findings.push(Finding::warning(
            format!("{streams} streams may be open (NEWCYCLE_MAX_STREAMS), and {places} connections: streams are some of them"),
            "LimitNOFILE=65536 in the systemd unit (ulimit -Hn), or raise NEWCYCLE_MAX_CONNECTIONS",
        ));
    }
    for (part, of, all, whole) in [
        (
            "NEWCYCLE_MAX_STREAMS_PER_KEY",
            serve.limits.max_streams_per_key,
            serve.limits.max_streams,
            "NEWCYCLE_MAX_STREAMS",
        ),
        (
            "NEWCYCLE_MAX_EXPORTS_PER_KEY",
            serve.exports.max_exports_per_key as usize,
            serve.exports.max_exports as usize,
            "NEWCYCLE_MAX_EXPORTS",
        ),
    ] {
        if of > all {
            findings.push(Finding::warning(
                format!("one key may have {of} ({part}), which is more than all together ({whole}={all})"),
                format!("lower {part}, so that one cannot take all"),
            ));
        }
    }
    if database.database_connections == 0 {
        findings.push(Finding::problem("no request gets a connection", "NEWCYCLE_DATABASE_CONNECTIONS=16"));
    }
    findings
}

fn tls(serve: &ServeSettings) -> Vec<Finding> {
    match serve.tls.load() {
        Ok(None) if serve.server_host.is_loopback() => {
            return vec![Finding::ok("not set, and only this machine is served")];
        }
        Ok(None) if serve.rates.trusted_proxies == TrustedProxies::default() => {
            return vec![Finding::warning(
                format!("others reach {}, and keys travel in the clear", serve.server_host),
                "NEWCYCLE_TLS_CERTIFICATE and NEWCYCLE_TLS_KEY; or a proxy that speaks TLS, in NEWCYCLE_TRUSTED_PROXIES",
            )];
        }
        Ok(None) => return vec![Finding::ok("not set: a proxy is in front")],
        Ok(Some(_)) => {}
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let remedy = "name a certificate and its key that the server's user can read (NEWCYCLE_TLS_CERTIFICATE, NEWCYCLE_TLS_KEY)";
            return vec![Finding::problem(format!("{error}{cause}"), remedy)];
        }
    }
    let Some((validity, key)) = serve.tls.named_pair() else { return Vec::new() };
    let remedy = "renew it, and replace both files: a running server takes them over within seconds";
    let mut findings = Vec::new();
    if let Some(trouble) = validity.trouble_at(Utc::now()) {
        findings.push(Finding::problem(format!("the certificate {trouble}: clients do not accept it"), remedy));
    } else if validity.trouble_at(Utc::now() + TimeDelta::days(DAYS_LEFT)).is_some() {
        findings.push(Finding::warning(format!("the certificate ends on {}", validity.end), remedy));
    }
    findings.extend(exposed(key));
    if findings.is_empty() {
        findings.push(Finding::ok(format!("the certificate is good until {}", validity.end)));
    }
    findings
}

fn encryption_key(serve: &ServeSettings, data_dir: &Path) -> Vec<Finding> {
    let file = data_dir.join(ENCRYPTION_KEY_FILE);
    if !serve.streams.encryption_key.is_empty() {
        return vec![Finding::ok("the key for secrets is in NEWCYCLE_ENCRYPTION_KEY")];
    }
    if !file.exists() {
        return vec![Finding::ok("there is no key for secrets yet: it is made when the first is kept")];
    }
    if let Err(error) = std::fs::File::open(&file) {
        let remedy = format!("chown it to the server's user: chown newcycle {}", file.display());
        return vec![Finding::problem(format!("{} cannot be read: {error}", file.display()), remedy)];
    }
    exposed(&file).into_iter().collect()
}

/// Whether others than its owner and group can read a secret.
fn exposed(file: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    let name = file.display();
    (mode & 0o007 != 0).then(|| {
        Finding::warning(format!("every user of this machine can read {name} ({mode:o})"), format!("chmod 600 {name}"))
    })
}

async fn tokens(serve: &ServeSettings) -> Vec<Finding> {
    match serve.auth.at(serve.server_host) {
        Err(error) => {
            let remedy = "set NEWCYCLE_JWT_JWKS, NEWCYCLE_JWT_ISSUER and NEWCYCLE_JWT_AUDIENCE, or none of them";
            vec![Finding::problem(error.to_string(), remedy)]
        }
        Ok(settings) => {
            let Some(tokens) = settings.tokens else { return Vec::new() };
            match tokens.count_keys().await {
                Ok(amount) => vec![Finding::ok(format!("keys of the identity provider: {amount}"))],
                Err(error) => {
                    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                    vec![Finding::problem(
                        format!("the identity provider's keys cannot be had: {error}{cause}"),
                        "can this machine reach NEWCYCLE_JWT_JWKS? tokens are refused without them",
                    )]
                }
            }
        }
    }
}

/// Who is let in.
pub(super) async fn access(questions: &Questions, serve: &ServeSettings) -> Result<Vec<Finding>, Unanswered> {
    let keys: i64 = questions
        .ask_one("select count(*) from access.keys where revoked_at is null and coalesce(expires_at > now(), true)")
        .await?
        .get(0);
    let expiring = questions
        .ask(
            "select name, id from access.keys
            where revoked_at is null and expires_at between now() and now() + interval '7 days' order by expires_at limit 3",
        )
        .await?;
    let host = serve.server_host;
    let has_tokens = serve.auth.at(host).is_ok_and(|settings| settings.tokens.is_some());
    let mut findings: Vec<_> = expiring
        .iter()
        .map(|row| {
            let (name, id): (String, String) = (row.get(0), row.get(1));
            Finding::warning(
                format!("the key \"{name}\" ends within a week"),
                format!("newcycle keys expire {id} 90d, or rotate it"),
            )
        })
        .collect();
    if serve.auth.is_off() && !host.is_loopback() {
        findings.push(Finding::warning(
            format!("everybody who reaches {host} may read and write everything"),
            "newcycle keys create --name NAME --scopes admin, then take NEWCYCLE_AUTHENTICATION=off away",
        ));
    } else if keys == 0 && !has_tokens && !host.is_loopback() && serve.auth.is_unsaid() {
        findings.push(Finding::problem(
            format!("others reach {host}, and there is no key: the server does not start"),
            "newcycle keys create --name NAME --scopes admin",
        ));
    } else if keys == 0 && !has_tokens && !serve.auth.is_unsaid() && !serve.auth.is_off() {
        let remedy = "newcycle keys create --name NAME --scopes admin";
        findings.push(Finding::problem("a key is required, and there is none: nobody can come in", remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("keys that are good: {keys}")));
    }
    Ok(findings)
}
