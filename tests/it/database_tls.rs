//! Connections to Postgres that are encrypted, and those that are not made because of whom they would reach.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use newcycle::database::{Database, DatabaseError};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::api::View;
use crate::doctor::doctor;
use crate::exports::over;
use crate::faults::Process;
use crate::postgres::Postgres;

/// An authority, and the file with its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let file = directory.join(name);
        fs::write(&file, certificate.pem()).expect("a file");
        Self { issuer: Issuer::new(parameters, key), file }
    }

    /// The end of a URL that trusts it.
    fn trusted(&self, mode: &str) -> String {
        format!("sslmode={mode}&sslrootcert={}", self.file.display())
    }
}

/// Has Postgres, which does not run, encrypt as the host of that name.
fn give_certificate(postgres: &Postgres, authority: &Authority, name: &str) {
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = parameters.signed_by(&key, &authority.issuer).expect("a certificate");
    let cluster = postgres.cluster();
    fs::write(cluster.join("server.crt"), certificate.pem()).expect("a file");
    fs::write(cluster.join("server.key"), key.serialize_pem()).expect("a file");
    let command = "chown --reference=PG_VERSION server.crt server.key; chmod 600 server.key";
    let owned = Command::new("sh").args(["-ec", command]).current_dir(&cluster).status();
    assert!(owned.is_ok_and(|status| status.success()), "Postgres can read its key");
}

/// A Postgres that lets nobody in over the network who does not encrypt.
async fn encrypted(authority: &Authority, name: &str) -> Postgres {
    let mut postgres = Postgres::start().await;
    postgres.end(Signal::INT).await;
    give_certificate(&postgres, authority, name);
    let cluster = postgres.cluster();
    let settings = OpenOptions::new().append(true).open(cluster.join("postgresql.auto.conf"));
    settings.expect("a file").write_all(b"ssl = on\n").expect("a setting");
    let rules = fs::read_to_string(cluster.join("pg_hba.conf")).expect("its rules");
    let only_encrypted: String = rules.lines().map(|rule| rule.replacen("host ", "hostssl ", 1) + "\n").collect();
    fs::write(cluster.join("pg_hba.conf"), only_encrypted).expect("its rules");
    postgres.start_again().await;
    postgres
}

fn url(postgres: &Postgres, parameters: &str) -> String {
    postgres.url().replace("sslmode=disable", parameters)
}

async fn connect(postgres: &Postgres, parameters: &str) -> Result<Database, DatabaseError> {
    Database::connect(url(postgres, parameters).parse()?, 1).await
}

#[tokio::test]
async fn all_that_a_server_says_to_postgres_is_encrypted() {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "ca.pem");
    let postgres = encrypted(&authority, "127.0.0.1").await;
    let url = url(&postgres, &authority.trusted("verify-full"));
    let server = Process::on(&url, &postgres.files(), "", &[]).await;
    let mut events = server.api.stream("/statistics/stream?metrics=user-creation&resolution=year", None).await;
    let mut view = View::default();
    view.take(&events.next_named("snapshot").await);
    server.api.user().await;
    view.take(&events.next_named("update").await);
    assert_eq!(view.total("user-creation"), 1);
    let (_, started) = server.api.post("/exports", json!({"dataset": "users", "format": "csv"})).await;
    let export = over(&server.api, started["id"].as_str().expect("an id")).await;
    assert_eq!((&export["state"], &export["result"]["rows"]), (&json!("complete"), &json!(1)), "{export}");

    let database = connect(&postgres, "sslmode=require").await.expect("it answers");
    let sessions: Vec<(String, bool)> = sqlx::query_as(
        "select distinct application_name, ssl from pg_stat_activity join pg_stat_ssl using (pid)
        where application_name like 'newcycle%' order by 1",
    )
    .fetch_all(&database.pool)
    .await
    .expect("sessions");
    assert!(sessions.len() >= 2 && sessions.iter().all(|(_, is_encrypted)| *is_encrypted), "{sessions:?}");
    let report = doctor(&url, &[], &[]).await;
    assert!(report.said("sslmode", "ok").is_some_and(|said| said.contains("TLSv1.3")), "{}", report.text);
}

#[tokio::test]
async fn whom_a_connection_reaches_is_asked_as_the_mode_says() {
    let directory = TempDir::new().expect("a directory");
    let [authority, other] = ["ca.pem", "other.pem"].map(|name| Authority::new(directory.path(), name));
    let mut here = encrypted(&authority, "127.0.0.1").await;
    let (elsewhere, open) = (encrypted(&authority, "db1.example").await, Postgres::start().await);
    let full = authority.trusted("verify-full");
    for (postgres, parameters, refusal) in [
        (&here, "sslmode=disable", Some("no encryption")),
        (&here, "sslmode=prefer", None),
        (&here, "sslmode=require", None),
        (&here, "sslmode=verify-full", Some("UnknownIssuer")),
        (&here, &full, None),
        (&here, &other.trusted("verify-full"), Some("UnknownIssuer")),
        (&elsewhere, &full, Some("not valid for name")),
        (&elsewhere, &authority.trusted("verify-ca"), None),
        (&elsewhere, &authority.trusted("require"), None),
        (&elsewhere, &other.trusted("require"), Some("UnknownIssuer")),
        (&open, "sslmode=prefer", None),
        (&open, "sslmode=require", Some("does not support TLS")),
    ] {
        let error = connect(postgres, parameters)
            .await
            .err()
            .map(|error| format!("{error}: {:?}", error.source().map(ToString::to_string)));
        match refusal {
            None => assert_eq!(error, None, "{parameters}"),
            Some(reason) => {
                assert!(error.as_ref().is_some_and(|error| error.contains(reason)), "{parameters}: {error:?}");
            }
        }
    }

    // Somebody else is there from now on.
    let database = connect(&here, &full).await.expect("it answers");
    here.end(Signal::INT).await;
    give_certificate(&here, &other, "127.0.0.1");
    here.start_again().await;
    let refused = sqlx::query("select 1").execute(&database.pool).await.expect_err("it is somebody else");
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    let found = doctor(&url(&here, &full), &[], &[]).await.problem("host");
    assert!(found.contains("UnknownIssuer") && found.contains("sslrootcert"), "{found}");
    let found = doctor(&url(&open, "sslmode=require"), &[], &[]).await.problem("host");
    assert!(found.contains("ssl = on"), "{found}");
}
