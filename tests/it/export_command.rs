//! `newcycle export`, as a program, against servers.

use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::export_files::read;
use crate::exports::stored;
use crate::faults::Obstacle;
use crate::harness::{PATIENCE, Server, eventually};

fn spawn(url: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_newcycle"));
    command.arg("export").args(arguments).args(["--url", url]).env_remove("NEWCYCLE_KEY").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the program runs")
}

async fn run(url: &str, arguments: &[&str]) -> Output {
    timeout(PATIENCE, spawn(url, arguments).wait_with_output()).await.expect("it ends").expect("its output")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn server_with_users(amount: i64) -> Server {
    let server = Server::start().await;
    sqlx::query("insert into users select from generate_series(1, $1)")
        .bind(amount)
        .execute(&server.database.pool)
        .await
        .expect("users");
    server
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_file_is_written_as_its_name_ends_and_the_server_keeps_none() {
    let server = server_with_users(1_000).await;
    let directory = tempfile::tempdir().expect("a directory");
    for (name, format, compression) in [
        ("users.csv", "csv", "none"),
        ("users.ndjson.zst", "ndjson", "zstd"),
        ("users.csv.gz", "csv", "gzip"),
        ("users.parquet", "parquet", "none"),
        ("users", "csv", "none"),
    ] {
        let file = path(directory.path(), name);
        let output = run(&server.api.url, &["users", "--output", &file]).await;
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("1,000 rows"), "{}", said(&output));
        let (_, rows) = read(format, compression, &std::fs::read(&file).expect("a file"));
        assert_eq!(rows.len(), 1_000, "{name}");
        assert!(stored(&server).is_empty(), "{name}");
    }
    let left = directory.path().read_dir().expect("a directory").count();
    assert_eq!(left, 5, "nothing else lies around");
    let output = run(&server.api.url, &["users", "--keep", "-o", &path(directory.path(), "kept.csv")]).await;
    assert!(output.status.success() && stored(&server).len() == 1, "{}", said(&output));
}

#[tokio::test]
async fn standard_output_has_the_file_and_nothing_else() {
    let server = server_with_users(10).await;
    let item = server.api.item(&server.api.base_item().await).await;
    let output = run(&server.api.url, &["items"]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().next(), Some("id,base_item_id,created_at"));
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with(&item)) && text.lines().count() == 2, "{text}");
    let output = run(&server.api.url, &["users", "--to", "2000-01-01T00:00:00Z", "--format", "ndjson"]).await;
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
}

#[tokio::test]
async fn what_cannot_be_done_is_said_and_leaves_no_file() {
    let server = server_with_users(1).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = path(directory.path(), "file.csv");
    let nowhere = path(directory.path(), "nowhere/file.csv");
    for (arguments, expected) in [
        (
            &["users", "--timezone", "UTC", "-o", &file][..],
            "timezone: the dataset users cannot be narrowed down by this",
        ),
        (&["users", "--from", "yesterday", "-o", &file], "from: "),
        (&["lamps", "-o", &file], "possible values: base-items, users"),
        (&["users", "-o", &nowhere], "cannot write"),
    ] {
        let output = run(&server.api.url, arguments).await;
        assert!(!output.status.success() && said(&output).contains(expected), "{}", said(&output));
    }
    sqlx::query("alter table users rename column created_at to since")
        .execute(&server.database.pool)
        .await
        .expect("it");
    let output = run(&server.api.url, &["users", "-o", &file]).await;
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("The database says: column \"created_at\" does not exist"), "{}", said(&output));
    let nobody = run("http://127.0.0.1:9", &["users"]).await;
    assert!(!nobody.status.success() && said(&nobody).contains("refused"), "{}", said(&nobody));
    assert_eq!(directory.path().read_dir().expect("a directory").count(), 0);
}

#[tokio::test]
async fn an_export_that_has_to_wait_is_waited_for() {
    let server = server_with_users(1).await;
    let obstacle = Obstacle::before("transfers", &server.name).await;
    let child = spawn(&server.api.url, &["transfers"]);
    let exporting = eventually(|| async {
        let (_, page) = server.api.get("/exports").await;
        if page["data"][0]["state"] == "running" { Ok(page["data"][0].clone()) } else { Err(page.to_string()) }
    })
    .await;
    // The command has had a heartbeat, too, by the time of the second one here.
    let events = format!("/exports/{}/events", exporting["id"].as_str().expect("an id"));
    let mut events = server.api.stream(&events, None).await;
    for _ in 0..2 {
        events.next_named("heartbeat").await;
    }
    obstacle.remove().await;
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("its output");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "id,item_id,owner_id,timestamp\n");
}

#[tokio::test]
async fn an_interrupt_cancels_the_export() {
    let server = server_with_users(1).await;
    let obstacle = Obstacle::before("transfers", &server.name).await;
    let child = spawn(&server.api.url, &["transfers"]);
    eventually(|| async {
        let (_, page) = server.api.get("/exports").await;
        if page["data"][0]["state"] == "running" { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    let pid = Pid::from_raw(child.id().expect("it runs").try_into().expect("a process id")).expect("not 0");
    kill_process(pid, Signal::INT).expect("the signal is sent");
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("its output");
    assert!(!output.status.success() && said(&output).contains("cancelled"), "{}", said(&output));
    eventually(|| async {
        let (_, page) = server.api.get("/exports").await;
        if page["data"][0]["state"] == "cancelled" { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    obstacle.remove().await;
}

/// A way to a server on which every answer breaks off after so many bytes. Its URL.
async fn brittle(server: &Server, most: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let address = server.address;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(address).await.expect("the server");
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                let asking = tokio::io::copy(&mut from_client, &mut to_server);
                let answering = async {
                    let mut from_server = from_server.take(u64::try_from(most).expect("a number"));
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                    let _ = to_client.shutdown().await;
                };
                tokio::select! {
                    _ = asking => {}
                    () = answering => {}
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_download_that_breaks_off_again_and_again_is_whole_at_the_end() {
    let server = server_with_users(20_000).await;
    let url = brittle(&server, 100_000).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = path(directory.path(), "users.csv");
    let output = run(&url, &["users", "-o", &file]).await;
    assert!(output.status.success(), "{}", said(&output));
    let bytes = std::fs::read(&file).expect("a file");
    assert!(bytes.len() > 10 * 100_000);
    let (_, rows) = read("csv", "none", &bytes);
    assert_eq!(rows.into_iter().collect::<std::collections::HashSet<_>>().len(), 20_000);
}

#[tokio::test]
async fn it_says_who_it_is_with_a_key() {
    let server = server_with_users(1).await;
    let pool = &server.database.pool;
    let scopes = newcycle::auth::Scopes::NONE.with(newcycle::auth::Scope::Exports);
    let (_, secret) = newcycle::auth::keys::create(pool, "x", scopes, None).await.expect("a key");
    eventually(|| async {
        let (status, answer) = server.api.get("/exports").await;
        if status == 401 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let output = run(&server.api.url, &["users"]).await;
    assert!(!output.status.success() && said(&output).contains("NEWCYCLE_KEY"), "{}", said(&output));
    let output = run(&server.api.url, &["users", "--key", &secret.key_text()]).await;
    assert!(output.status.success(), "{}", said(&output));
}
