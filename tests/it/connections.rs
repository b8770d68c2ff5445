//! What clients may do with their connections, said byte by byte: the streams take theirs over from the HTTP library.

use std::time::{Duration, Instant};

use sqlx::Executor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::client::{Client, STREAM, get, unchunked};
use crate::harness::Server;

/// Well below the time that requests under way are given, which a stop would take if it waited for somebody.
const PROMPTLY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_stream_is_well_formed_from_its_head_to_its_end() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    client.send(&get(STREAM)).await;
    let head = client.until("\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for line in
        ["content-type: text/event-stream", "transfer-encoding: chunked", "cache-control: no-store", "x-request-id: "]
    {
        assert!(head.contains(line), "{head}");
    }
    let mut body = client.until("event: snapshot").await;
    for n in 1..=3 {
        server.happen().await;
        body += &client.until(&format!("\"count\":{n}")).await;
    }
    server.stop().await;
    let (text, ended) = unchunked(&(body + &client.rest().await));
    assert!(ended, "{text}");
    assert!(text.starts_with("retry: ") && text.ends_with("\n\n"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().expect("a message");
    assert!(last.starts_with("retry: "), "the last word says when to come again: {last}");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_sent_messages_and_nothing_between_them() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    client.send(&get(STREAM).replace("HTTP/1.1", "HTTP/1.0")).await;
    let head = client.until("\r\n\r\n").await.to_lowercase();
    assert!(!head.contains("transfer-encoding"), "{head}");
    let first = client.until("\n\n").await;
    assert!(first.starts_with("retry: "), "{first}");
    client.until("event: snapshot").await;
    server.happen().await;
    client.until("event: update").await;
    server.stop().await;
    let rest = client.rest().await;
    assert!(rest.ends_with("\n\n") && !rest.contains('\r'), "{rest:?}");
}

#[tokio::test]
async fn requests_before_a_stream_are_answered_and_those_after_it_disturb_nothing() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    client.send(&get("/livez")).await;
    client.until(r#"{"status":"ok"}"#).await;
    // All in one packet.
    client.send(&[get("/livez"), get("/readyz"), get(STREAM), get("/livez")].concat()).await;
    for _ in 0..2 {
        client.until(r#"{"status":"ok"}"#).await;
    }
    client.until("event: snapshot").await;
    for n in 1..=2 {
        client.send(&get("/livez")).await;
        server.happen().await;
        client.until(&format!("\"count\":{n}")).await;
    }
}

#[tokio::test]
async fn a_head_request_for_a_stream_leaves_the_connection_as_it_was() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    client.send(&get(STREAM).replace("GET", "HEAD")).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("text/event-stream"), "{head}");
    client.send(&get("/livez")).await;
    let answer = client.until(r#"{"status":"ok"}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "no body came before it: {answer}");
}

#[tokio::test]
async fn a_body_is_asked_for_when_the_client_expects_that() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    let body = "{}\n{}\n";
    let head =
        "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\nexpect: 100-continue\r\n";
    client.send(&format!("{head}content-length: {}\r\n\r\n", body.len())).await;
    let interim = client.until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    client.send(body).await;
    client.until(r#""inserted":2"#).await;
}

#[tokio::test]
async fn one_who_only_connected_does_not_hold_up_a_stop() {
    let server = Server::start().await;
    let silent = Client::connect(&server).await;
    // Connections are accepted in order: when the next one is answered, this one has been.
    let mut next = Client::connect(&server).await;
    next.send(&get("/livez")).await;
    next.until(r#"{"status":"ok"}"#).await;
    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < PROMPTLY, "it took {:?}", start.elapsed());
    assert_eq!(silent.rest().await, "");
}

/// How many bytes wait in the server's socket for the client with this port to take them.
fn unsent(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.get(2).is_some_and(|remote| remote.ends_with(&format!(":{port:04X}"))))
        .and_then(|row| u64::from_str_radix(row[4].split(':').next()?, 16).ok())
        .unwrap_or(0)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reader_who_takes_nothing_delays_neither_others_nor_a_stop_and_is_told_the_newest_later() {
    of_readers_who_take_nothing(Server::start().await, async |socket| socket).await;
}

/// The same whether they speak TLS or not: what they make of their sockets is theirs.
pub async fn of_readers_who_take_nothing<S: AsyncRead + AsyncWrite + Unpin>(
    server: Server,
    speak: impl AsyncFn(TcpStream) -> S,
) {
    let connect = async || {
        let socket = TcpStream::connect(server.address).await.expect("a connection");
        let port = socket.local_addr().expect("an address").port();
        (Client::on(speak(socket).await), port)
    };
    // Arrays of ten thousand buckets soon fill what the kernel keeps for a reader who takes nothing.
    server
        .database
        .pool
        .execute("insert into users (created_at) select now() - n * interval '1 ms' from generate_series(1, 10000) n")
        .await
        .expect("users");
    let path = "/statistics/user-creation/millisecond?limit=10000";
    let mut slow = [connect().await, connect().await];
    for (client, _) in &mut slow {
        client.send(&get(path)).await;
    }
    let (mut quick, _) = connect().await;
    quick.send(&get(STREAM)).await;
    quick.until("event: snapshot").await;
    // Until something is told and neither queue grows any more.
    let (mut told, mut before) = (0, [0, 0]);
    loop {
        server.happen().await;
        told += 1;
        quick.until(&format!("\"count\":{}", 10_000 + told)).await;
        let now = slow.each_ref().map(|(_, port)| unsent(*port));
        if now == before && now.iter().all(|&bytes| bytes > 0) {
            break;
        }
        before = now;
    }
    // Further changes are nowhere kept for it, and yet it sees them when it goes on.
    for _ in 0..10 {
        server.happen().await;
        told += 1;
        quick.until(&format!("\"count\":{}", 10_000 + told)).await;
    }
    let [(mut late, _), stalled] = slow;
    let (_, newest) = server.api.get(path).await;
    let mut messages = 0;
    loop {
        let message = late.until("\n\n").await;
        let Some(data) = message.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
        messages += 1;
        if serde_json::from_str::<serde_json::Value>(data).expect("JSON") == newest {
            break;
        }
    }
    assert!(messages < told, "{messages} messages told it {told} changes");

    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < PROMPTLY, "it took {:?}", start.elapsed());
    drop(stalled);
}
