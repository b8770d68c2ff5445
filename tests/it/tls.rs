//! HTTPS: requests, streams, and certificates that are replaced.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use newcycle::server::Settings;
use newcycle::tls::{Tls, TlsError};
use rcgen::{CertificateParams, KeyPair};
use reqwest::StatusCode;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, STREAM, get, unchunked};
use crate::connections::of_readers_who_take_nothing;
use crate::harness::{self, PATIENCE, Server, eventually};
use crate::limits::SHORT;

/// Well below the time that requests under way are given, which a stop would take if it waited for somebody.
const PROMPTLY: Duration = Duration::from_secs(5);

/// A certificate for this machine and its key, both in PEM, made for the test.
struct Pair {
    der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self { der: certificate.der().clone(), certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// Files that a server has its certificate from.
struct Files {
    directory: TempDir,
}

impl Files {
    fn of(pair: &Pair) -> Self {
        let files = Self { directory: TempDir::new().expect("a directory") };
        files.write(&pair.certificate, &pair.key);
        files
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    fn write(&self, certificate: &str, key: &str) {
        std::fs::write(self.certificate(), certificate).expect("a file");
        std::fs::write(self.key(), key).expect("a file");
    }

    fn load(&self) -> Result<Tls, TlsError> {
        Tls::load(self.certificate(), self.key())
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.tls = Some(self.load().expect("a good pair"));
        settings
    }
}

/// A client who trusts the issuers of these, which they are themselves.
fn connector(trusted: &[&Pair], versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der.clone()).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into()
}

async fn encrypt(socket: TcpStream, trusted: &[&Pair]) -> TlsStream<TcpStream> {
    let connector = connector(trusted, rustls::ALL_VERSIONS);
    let name = ServerName::try_from("localhost").expect("a name");
    connector.connect(name, socket).await.expect("the certificate is trusted")
}

async fn connect(server: &Server, trusted: &[&Pair]) -> TlsStream<TcpStream> {
    encrypt(TcpStream::connect(server.address).await.expect("a connection"), trusted).await
}

/// The certificate that the next to connect is shown.
async fn shown(server: &Server, trusted: &[&Pair]) -> CertificateDer<'static> {
    let socket = connect(server, trusted).await;
    let (_, session) = socket.get_ref();
    session.peer_certificates().expect("a handshake")[0].clone()
}

#[tokio::test]
async fn requests_are_answered_over_tls_of_either_version() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let socket = TcpStream::connect(server.address).await.expect("a connection");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let socket = connector(&[&pair], &[version]).connect(name, socket).await.expect("a handshake");
        assert_eq!(socket.get_ref().1.protocol_version(), Some(version.version));
        let mut client = Client::on(socket);
        for _ in 0..2 {
            client.send(&get("/livez")).await;
            client.until(r#"{"status":"ok"}"#).await;
        }
    }
    let trusting = reqwest::Certificate::from_pem(pair.certificate.as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([trusting]).build().expect("a client");
    let response = client.post(format!("{}/users", server.api.url)).json(&json!({})).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_stream_is_well_formed_from_its_head_to_its_end() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    let mut client = Client::on(connect(&server, &[&pair]).await);
    client.send(&get(STREAM)).await;
    let head = client.until("\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    let mut body = client.until("event: snapshot").await;
    for n in 1..=3 {
        server.happen().await;
        // What it says meanwhile is nobody's concern.
        client.send(&get("/livez")).await;
        body += &client.until(&format!("\"count\":{n}")).await;
    }
    server.stop().await;
    // The connection ends in order: without the last word of TLS, reading on would be an error.
    let (text, ended) = unchunked(&(body + &client.rest().await));
    assert!(ended, "{text}");
    let last = text.trim_end().rsplit("\n\n").next().expect("a message");
    assert!(last.starts_with("retry: "), "the last word says when to come again: {last}");
}

#[tokio::test]
async fn a_message_larger_than_a_record_comes_whole() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    sqlx::query("insert into users (created_at) select now() - n * interval '1 ms' from generate_series(1, 9000) n")
        .execute(&server.database.pool)
        .await
        .expect("users");
    let mut events = server.api.stream("/statistics/user-creation/millisecond?limit=9000", None).await;
    let first = events.next().await.expect("an event");
    let rows = first.data.as_array().expect("buckets").len();
    assert_eq!(rows, 9000);
}

/// How many streams the server says are open.
async fn streams(server: &Server) -> String {
    let response = server.api.request(reqwest::Method::GET, "/metrics").send().await.expect("an answer");
    let text = response.text().await.expect("text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("newcycle_event_streams_open{kind=\"statistics\"} "))
        .expect("the gauge");
    line.to_owned()
}

#[tokio::test]
async fn a_reader_who_leaves_is_noticed_with_or_without_a_farewell() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    for says_goodbye in [true, false] {
        let mut client = Client::on(connect(&server, &[&pair]).await);
        client.send(&get(STREAM)).await;
        client.until("event: snapshot").await;
        assert_eq!(streams(&server).await, "1");
        let mut kept = None;
        if says_goodbye {
            // The socket stays open.
            kept = Some(client.finish().await);
        } else {
            drop(client);
        }
        eventually(|| async {
            let streams = streams(&server).await;
            if streams == "0" { Ok(()) } else { Err(format!("{streams} streams")) }
        })
        .await;
        drop(kept);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reader_who_takes_nothing_delays_neither_others_nor_a_stop_and_is_told_the_newest_later() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    of_readers_who_take_nothing(server, async |socket| encrypt(socket, &[&pair]).await).await;
}

#[tokio::test]
async fn one_who_only_connected_does_not_hold_up_a_stop() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    let silent = Client::connect(&server).await;
    let shaken = connect(&server, &[&pair]).await;
    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < PROMPTLY, "it took {:?}", start.elapsed());
    assert_eq!(silent.rest().await, "");
    drop(shaken);
}

#[tokio::test]
async fn new_connections_get_a_new_certificate_while_streams_go_on_with_the_old_one() {
    let (old, new) = (Pair::new(), Pair::new());
    let files = Files::of(&old);
    let server = Server::with_settings(files.settings()).await;
    let mut client = Client::on(connect(&server, &[&old]).await);
    client.send(&get(STREAM)).await;
    client.until("event: snapshot").await;
    files.write(&new.certificate, &new.key);
    eventually(|| async {
        if shown(&server, &[&old, &new]).await == new.der { Ok(()) } else { Err("it is the old one".to_owned()) }
    })
    .await;
    server.happen().await;
    client.until("\"count\":1").await;
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_are_symbolic_links_may_be_swapped_at_once() {
    // As Kubernetes does it: the files are links into a directory that is a link itself.
    let (old, new) = (Pair::new(), Pair::new());
    let directory = TempDir::new().expect("a directory");
    for (name, pair) in [("first", &old), ("second", &new)] {
        let version = directory.path().join(name);
        std::fs::create_dir(&version).expect("a directory");
        std::fs::write(version.join("tls.crt"), &pair.certificate).expect("a file");
        std::fs::write(version.join("tls.key"), &pair.key).expect("a file");
    }
    let link = |version: &str, name: &str| {
        std::os::unix::fs::symlink(version, directory.path().join(name)).expect("a link");
    };
    link("first", "data");
    link("data/tls.crt", "tls.crt");
    link("data/tls.key", "tls.key");
    let tls = Tls::load(directory.path().join("tls.crt"), directory.path().join("tls.key")).expect("a good pair");
    assert!(!tls.look().expect("nothing changed"));
    link("second", "data.new");
    std::fs::rename(directory.path().join("data.new"), directory.path().join("data")).expect("the swap");
    assert!(tls.look().expect("a good pair"));
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_changes_nothing() {
    let (old, new) = (Pair::new(), Pair::new());
    let files = Files::of(&old);
    let tls = files.load().expect("a good pair");
    let mut settings = Settings::default();
    settings.tls = Some(tls.clone());
    let server = Server::with_settings(settings).await;
    let half = &new.certificate[..new.certificate.len() / 2];
    for (certificate, key) in [(half, &new.key), (&*new.certificate, &old.key), ("", &new.key)] {
        files.write(certificate, key);
        // The server may have looked by itself already; then there is nothing new to be seen.
        let _ = tls.look();
        assert_eq!(shown(&server, &[&old, &new]).await, old.der);
    }
    std::fs::remove_file(files.key()).expect("it was there");
    let _ = tls.look();
    assert_eq!(shown(&server, &[&old, &new]).await, old.der);
    files.write(&new.certificate, &new.key);
    let _ = tls.look();
    assert_eq!(shown(&server, &[&old, &new]).await, new.der);
}

#[test]
fn what_is_wrong_with_a_replaced_certificate_is_said_once() {
    let (old, new) = (Pair::new(), Pair::new());
    let files = Files::of(&old);
    let tls = files.load().expect("a good pair");
    files.write(&new.certificate, &old.key);
    assert!(matches!(tls.look(), Err(TlsError::Mismatch { .. })));
    assert!(!tls.look().expect("nothing changed since"));
    std::fs::remove_file(files.key()).expect("it was there");
    assert!(matches!(tls.look(), Err(TlsError::Unreadable { .. })));
    assert!(!tls.look().expect("it is still not there"));
    files.write(&old.certificate, &old.key);
    assert!(tls.look().expect("a good pair"), "the old one is as good as any");
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let (pair, other) = (Pair::new(), Pair::new());
    let files = Files::of(&pair);
    let complaint = |certificate: &str, key: &str| {
        files.write(certificate, key);
        files.load().expect_err("it cannot be used").to_string()
    };
    let text = complaint(&pair.certificate, &other.key);
    assert!(
        text.contains("key.pem does not belong to the certificate in ") && text.contains("certificate.pem"),
        "{text}"
    );
    let text = complaint("lamp", &pair.key);
    assert!(text.contains("there is no certificate in ") && text.contains("BEGIN CERTIFICATE"), "{text}");
    let text = complaint(&pair.certificate, &pair.certificate);
    assert!(text.contains("there is no private key in ") && text.contains("BEGIN PRIVATE KEY"), "{text}");
    let text = complaint(&pair.certificate[..100], &pair.key);
    assert!(text.contains("certificate.pem is not a PEM file") && text.contains("incomplete"), "{text}");
    let text = complaint(&pair.key.replace("PRIVATE KEY", "CERTIFICATE"), &pair.key);
    assert!(text.contains("certificate.pem cannot be used"), "{text}");
    std::fs::remove_file(files.certificate()).expect("it was there");
    let text = files.load().expect_err("it is not there").to_string();
    assert!(text.contains("cannot read ") && text.contains("--tls-certificate"), "{text}");
}

#[tokio::test]
async fn http_where_https_is_spoken_is_told_so() {
    let files = Files::of(&Pair::new());
    let server = Server::with_settings(files.settings()).await;
    let mut client = Client::connect(&server).await;
    client.send(&get("/livez")).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n") && answer.contains("https://"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_its_end_is_ended() {
    let files = Files::of(&Pair::new());
    let mut settings = files.settings();
    settings.connections.header_timeout = SHORT;
    let server = Server::with_settings(settings).await;
    for begin in ["", "\u{16}", "\u{16}\u{3}\u{1}"] {
        let mut client = Client::connect(&server).await;
        client.send(begin).await;
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_answered_408() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let mut settings = files.settings();
    settings.connections.header_timeout = SHORT;
    let server = Server::with_settings(settings).await;
    let mut client = Client::on(connect(&server, &[&pair]).await);
    client.send("GET /livez HTTP/1.1\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
}

fn newcycle(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_newcycle"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for name in ["NEWCYCLE_URL", "NEWCYCLE_CA_CERTIFICATE", "NEWCYCLE_TLS_CERTIFICATE", "NEWCYCLE_TLS_KEY"] {
        command.env_remove(name);
    }
    command
}

#[tokio::test]
async fn programs_ask_and_write_over_https() {
    let pair = Pair::new();
    let files = Files::of(&pair);
    let server = Server::with_settings(files.settings()).await;
    let url = server.api.url.as_str();
    let ready = newcycle(&["ready", "--url", url]).output().await.expect("the program runs");
    assert!(ready.status.success(), "{ready:?}");
    // A system that trusts nobody is no hindrance.
    let mut ready = newcycle(&["ready", "--url", url]);
    ready.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/dev/null");
    assert!(ready.output().await.expect("the program runs").status.success());

    let certificate = files.certificate();
    let trusting = ["--ca-certificate", certificate.to_str().expect("text")];
    let demo = newcycle(&[&["demo", "--url", url, "--duration", "0.5", "--rate", "50"], &trusting[..]].concat());
    let demo = timeout(PATIENCE, { demo }.output()).await.expect("it ends").expect("the program runs");
    assert!(demo.status.success(), "{demo:?}");
    assert!(server.rows().await[1] >= 25, "the demo has made users");
}

#[tokio::test]
async fn a_demo_does_not_believe_a_certificate_that_nobody_vouches_for() {
    let files = Files::of(&Pair::new());
    let server = Server::with_settings(files.settings()).await;
    let mut demo = newcycle(&["demo", "--url", &server.api.url]).spawn().expect("the program runs");
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(demo.stderr.take().expect("it is piped")));
    let line = timeout(PATIENCE, lines.next_line()).await.expect("it says something").expect("text").expect("a line");
    assert!(line.contains("certificate"), "{line}");
    assert_eq!(server.rows().await, [0; 4]);
}

#[tokio::test]
async fn a_start_with_a_wrong_certificate_ends_before_there_is_a_postgres() {
    let (pair, other) = (Pair::new(), Pair::new());
    let files = Files::of(&pair);
    files.write(&pair.certificate, &other.key);
    let data = files.directory.path().join("data");
    let (certificate, key) = (files.certificate(), files.key());
    let [data_dir, certificate, key] = [&data, &certificate, &key].map(|path| path.to_str().expect("text"));
    let command = |arguments: &[&str]| {
        let mut command = newcycle(&[&["serve", "--server-port", "0", "--data-dir", data_dir], arguments].concat());
        for name in ["DATABASE_URL", "PGHOST", "DASHBOARD_PORT"] {
            command.env_remove(name);
        }
        command
    };
    let ended = async |mut command: Command| {
        let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("the program runs");
        assert!(!output.status.success(), "{output:?}");
        assert!(!data.exists(), "no Postgres was made");
        String::from_utf8(output.stderr).expect("text")
    };
    let text = ended(command(&["--tls-certificate", certificate, "--tls-key", key])).await;
    assert!(text.contains("does not belong to the certificate"), "{text}");
    let text = ended(command(&["--tls-certificate", certificate])).await;
    assert!(text.contains("--tls-certificate needs --tls-key beside it"), "{text}");
    // What is empty in the environment is not set.
    let mut half = command(&[]);
    half.env("NEWCYCLE_TLS_CERTIFICATE", "").env("NEWCYCLE_TLS_KEY", key);
    let text = ended(half).await;
    assert!(text.contains("--tls-key needs --tls-certificate beside it"), "{text}");
    let text = ended(command(&["--max-connections", "999999999"])).await;
    assert!(text.contains("ulimit -Hn"), "{text}");
}

#[tokio::test]
async fn the_program_names_its_addresses_as_they_are() {
    let files = Files::of(&Pair::new());
    let name = harness::new_database().await;
    let mut command = newcycle(&["serve", "--server-port", "0"]);
    command.env("DATABASE_URL", harness::url(&name).await).env_remove("DASHBOARD_PORT").stderr(Stdio::null());
    command.env("NEWCYCLE_TLS_CERTIFICATE", files.certificate()).env("NEWCYCLE_TLS_KEY", files.key());
    let mut server = command.spawn().expect("the program runs");
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(server.stdout.take().expect("it is piped")));
    let url = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").expect("text").expect("a line");
        if let Some((_, url)) = line.split_once("dashboard  ") {
            break url.trim_end_matches('/').to_owned();
        }
    };
    assert!(url.starts_with("https://"), "{url}");
    crate::api::Api::new(url).until_ready().await;
    server.kill().await.expect("it runs");
}
