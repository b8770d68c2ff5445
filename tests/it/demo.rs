//! `newcycle demo`, as a program, against servers.

use std::process::Stdio;

use newcycle::database::Database;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use crate::api::{Api, View};
use crate::harness::{self, PATIENCE, Server, eventually};
use crate::streams;

fn newcycle(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_newcycle"));
    command.args(arguments).env_remove("NEWCYCLE_URL").stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A demo under way.
struct Demo {
    child: Child,
    errors: Lines<BufReader<ChildStderr>>,
    output: ChildStdout,
}

impl Demo {
    fn start(url: &str, arguments: &[&str]) -> Self {
        let mut child = newcycle(&[&["demo", "--url", url], arguments].concat()).spawn().expect("the program runs");
        let errors = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let output = child.stdout.take().expect("it is piped");
        Self { child, errors, output }
    }

    /// Reads on until it says something like that.
    async fn says(&mut self, text: &str) {
        let search =
            async { while !self.errors.next_line().await.expect("text").expect("it goes on").contains(text) {} };
        timeout(PATIENCE, search).await.expect(text);
    }

    /// As Ctrl-C does.
    fn interrupt(&self) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").try_into().expect("a process id")).expect("not 0");
        kill_process(pid, Signal::INT).expect("the signal is sent");
    }

    /// Waits for the end. What the server acknowledged: transfers, items, users and base items.
    async fn end(mut self) -> [i64; 4] {
        let mut summary = String::new();
        timeout(PATIENCE, self.output.read_to_string(&mut summary)).await.expect("it ends").expect("text");
        assert!(self.child.wait().await.expect("it ends").success(), "{summary}");
        let (_, numbers) = summary.split_once(": ").expect("a summary");
        assert!(numbers.ends_with("; 0 refused, 0 unanswered\n"), "{summary}");
        let numbers: Vec<i64> = numbers.split(' ').filter_map(|word| word.parse().ok()).collect();
        numbers[..4].try_into().expect("four numbers")
    }
}

/// Transfers, items, users and base items.
async fn ledger(database: &Database) -> [i64; 4] {
    let (transfers, items, users, base_items) = sqlx::query_as(
        "select (select count(*) from transfers), (select count(*) from items),
            (select count(*) from users), (select count(*) from base_items)",
    )
    .fetch_one(&database.pool)
    .await
    .expect("the tables can be counted");
    [transfers, items, users, base_items]
}

#[tokio::test]
async fn what_the_server_acknowledged_is_in_the_ledger_and_on_an_open_stream() {
    let server = Server::start().await;
    let mut events = server.api.stream("/statistics/stream?resolution=year", None).await;
    let mut view = View::default();

    let first = Demo::start(&server.api.url, &["--rate", "200", "--duration", "1"]).end().await;

    assert_eq!(ledger(&server.database).await, first);
    let [transfers, items, users, base_items] = first;
    assert!(transfers > 0 && items > 0 && users >= 25 && base_items == 12, "{first:?}");
    while ["transfers", "item-creation", "user-creation"].map(|metric| view.total(metric)) != first[..3] {
        view.take(&events.next().await.expect("the stream goes on"));
    }

    let second = Demo::start(&server.api.url, &["--rate", "200", "--duration", "0.2", "--seed", "1"]).end().await;

    assert_eq!(second[3], 0, "the base items are there already");
    let sum: Vec<i64> = first.iter().zip(second).map(|(first, second)| first + second).collect();
    assert_eq!(ledger(&server.database).await, sum[..]);
    server.stop().await;
}

/// A server in a process of its own, which can be killed.
async fn serve(database: &str, port: &str) -> (Child, String) {
    let mut command = newcycle(&["serve", "--server-port", port]);
    command.env("DATABASE_URL", harness::url(database).await).env_remove("DASHBOARD_PORT").stderr(Stdio::null());
    let mut child = command.spawn().expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let url = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").expect("text").expect("a line");
        if let Some((_, url)) = line.split_once("dashboard  ") {
            break url.trim_end_matches('/').to_owned();
        }
    };
    Api::new(url.clone()).until_ready().await;
    (child, url)
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_has_everything_once() {
    let name = harness::new_database().await;
    let database = harness::connect(&name).await;
    let (mut server, url) = serve(&name, "0").await;
    let mut demo = Demo::start(&url, &["--rate", "500"]);
    let transfers = |more_than: i64| {
        let database = &database;
        eventually(move || async move {
            let [transfers, ..] = ledger(database).await;
            if transfers > more_than { Ok(transfers) } else { Err(format!("{transfers} transfers")) }
        })
    };
    transfers(50).await;

    server.kill().await.unwrap();
    demo.says("is away").await;
    let [before, ..] = ledger(&database).await;
    let port = url.rsplit_once(':').unwrap().1;
    let (_server, _) = serve(&name, port).await;
    demo.says("is there").await;
    transfers(before + 50).await;
    demo.interrupt();

    assert_eq!(demo.end().await, ledger(&database).await);
    database.close().await;
}

#[tokio::test]
async fn it_waits_for_a_server_until_it_is_interrupted() {
    // Port 1 of this machine is as good as never listened on.
    let mut demo = Demo::start("http://127.0.0.1:1", &[]);
    demo.says("http://127.0.0.1:1 is away (").await;
    demo.interrupt();
    assert_eq!(demo.end().await, [0; 4]);
}

#[tokio::test]
async fn the_stream_of_the_readme_brings_a_crm_into_the_ledger() {
    let mut crm = newcycle(&["demo", "--crm", "0", "--rate", "50"]).spawn().expect("the program runs");
    let mut lines = BufReader::new(crm.stdout.take().expect("it is piped")).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text").expect("where it is");
    let url = line.split_whitespace().find(|word| word.starts_with("http")).expect("a URL").trim_end_matches(',');
    let example = include_str!("../../examples/stream.json");
    assert!(example.contains("http://127.0.0.1:8090/assets"), "as `demo --crm` serves it");
    let example = example.replace("http://127.0.0.1:8090/assets", url);
    let server = streams::server().await;

    let id = streams::create(&server.api, serde_json::from_str(&example).expect("JSON")).await;

    let batch = streams::over(&server.api, &id, 1).await;
    assert_eq!((&batch["state"], &batch["records"], &batch["rejected"]), (&json!("complete"), &json!(240), &json!(0)));
    let [transfers, items, users, base_items] = ledger(&server.database).await;
    assert_eq!((items, base_items), (240, 12));
    assert!(transfers > 100 && users > 20, "{transfers} transfers, {users} users");
    let batch = streams::fetch(&server.api, &id).await;
    assert_eq!(batch["rejected"], 0, "{batch}");
    let [later, items, ..] = ledger(&server.database).await;
    assert!(later > transfers && items == 240, "things have changed hands: {transfers}, then {later}");
    crm.kill().await.expect("it is killed");
}
