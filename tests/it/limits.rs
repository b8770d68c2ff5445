//! What slow clients and many clients may take of a server.

use std::num::NonZeroUsize;
use std::time::Duration;

use newcycle::server::Settings;
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Client, STREAM, get};
use crate::harness::{Server, eventually};

/// So short that no test waits for long, and long enough for a request that is there as a whole, on a busy machine too.
pub const SHORT: Duration = Duration::from_secs(1);

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_answered_408() {
    let server = Server::with_settings(settings(|it| it.connections.header_timeout = SHORT)).await;
    for half in ["G", "GET /livez HTTP/1.1\r\n", "GET /livez HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut client = Client::connect(&server).await;
        client.send(half).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{half:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.contains("urn:newcycle:problem:request-timeout") && answer.contains("within 1 s"), "{answer}");
    }
}

#[tokio::test]
async fn the_second_request_of_a_connection_has_its_own_time() {
    let server = Server::with_settings(settings(|it| it.connections.header_timeout = SHORT)).await;
    let mut client = Client::connect(&server).await;
    client.send(&get("/livez")).await;
    client.until(r#"{"status":"ok"}"#).await;
    client.send("GET /livez").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn one_who_connects_and_says_nothing_is_left_without_a_word() {
    let server = Server::with_settings(settings(|it| it.connections.header_timeout = SHORT)).await;
    assert_eq!(Client::connect(&server).await.rest().await, "");
}

#[tokio::test]
async fn a_connection_that_was_used_rests_for_longer_than_a_head_may_take() {
    let server = Server::with_settings(settings(|it| it.connections.header_timeout = SHORT)).await;
    let mut kept = Client::connect(&server).await;
    kept.send(&get("/livez")).await;
    kept.until(r#"{"status":"ok"}"#).await;
    // A body that nobody wants, and the rest of it after the answer.
    let mut refused = Client::connect(&server).await;
    let head = "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    refused.send(head).await;
    refused.until("urn:newcycle:problem:unsupported-media-type").await;
    // One who says nothing is ended after them.
    Client::connect(&server).await.rest().await;
    Client::connect(&server).await.rest().await;
    for mut client in [kept, refused] {
        client.send(&get("/livez")).await;
        client.until(r#"{"status":"ok"}"#).await;
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_408_and_nothing_of_it_stays() {
    let server = Server::with_settings(settings(|it| it.connections.body_timeout = SHORT)).await;
    for (media_type, begin) in [
        ("application/json", ""),
        ("application/json", "{"),
        ("application/json", "[{},{},"),
        ("application/x-ndjson", "{}\n{}\n"),
    ] {
        let mut client = Client::connect(&server).await;
        let head = format!("POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media_type}\r\n");
        client.send(&format!("{head}content-length: 1000\r\n\r\n{begin}")).await;
        let answer = client.rest().await.to_lowercase();
        assert!(answer.starts_with("http/1.1 408 request timeout\r\n"), "{media_type} {begin:?}: {answer}");
        for part in ["application/problem+json", "urn:newcycle:problem:request-timeout", "connection: close"] {
            assert!(answer.contains(part), "{media_type} {begin:?}: {answer}");
        }
    }
    assert_eq!(server.rows().await, [0; 4]);
}

/// Clients with open streams, as many as there is room for; and what the next one is told.
async fn fill(server: &Server, connect: impl AsyncFn() -> Client) -> (Vec<Client>, String) {
    let mut clients = Vec::new();
    loop {
        let mut client = connect().await;
        let _ = client.try_send(&get(STREAM)).await;
        let answer = client.until("\r\n\r\n").await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            return (clients, answer + &client.rest().await);
        }
        client.until("event: snapshot").await;
        clients.push(client);
        assert!(clients.len() < 100, "there is an end to it on {}", server.address);
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_the_others_go_on() {
    let most = NonZeroUsize::new(6);
    let server = Server::with_settings(settings(|it| it.connections.max_connections = most)).await;
    let (mut clients, answer) = fill(&server, async || Client::connect(&server).await).await;
    // The harness has one or two itself.
    assert!((4..=6).contains(&clients.len()), "{} streams", clients.len());
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    for part in ["retry-after: ", "connection: close", "urn:newcycle:problem:unavailable", "6 connections are open"] {
        assert!(answer.contains(part), "{answer}");
    }
    // Nobody has to say anything to be told.
    assert!(Client::connect(&server).await.rest().await.starts_with("HTTP/1.1 503 "));
    server.happen().await;
    for client in &mut clients {
        client.until("\"count\":1").await;
    }
    // A stream gives its place to the next when its reader leaves.
    clients.pop();
    let (replaced, _) = eventually(|| async {
        let (clients, answer) = fill(&server, async || Client::connect(&server).await).await;
        if clients.is_empty() { Err(answer) } else { Ok((clients, answer)) }
    })
    .await;
    assert_eq!(replaced.len(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_with_too_many_connections_leaves_the_others_their_places() {
    let most = NonZeroUsize::new(2);
    let server = Server::with_settings(settings(|it| it.connections.max_connections_per_address = most)).await;
    // All of 127.0.0.0/8 is this machine.
    let connect = async |address: &str| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{address}:0").parse().expect("an address")).expect("one of this machine's");
        let socket: TcpStream = socket.connect(server.address).await.expect("a connection");
        Client::on(socket)
    };
    let (mut first, answer) = fill(&server, async || connect("127.0.0.2").await).await;
    assert_eq!(first.len(), 2);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("2 connections are open from this address"),
        "{answer}"
    );
    let (mut second, _) = fill(&server, async || connect("127.0.0.3").await).await;
    assert_eq!(second.len(), 2);
    server.happen().await;
    for client in first.iter_mut().chain(&mut second) {
        client.until("\"count\":1").await;
    }
}
