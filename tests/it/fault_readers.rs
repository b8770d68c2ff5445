//! Readers who read nothing, who all come back at once, and who vanish.

use std::collections::HashMap;

use futures_util::future::join_all;
use newcycle::http::ConnectionSettings;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;

use crate::client::{Client, STREAM, get};
use crate::fault_network::{Cable, Island, before};
use crate::faults::Process;
use crate::harness::{connect, data_directory, eventually, new_database};
use crate::load::{Load, Place};

/// More than a thousand is thousands.
const READERS: usize = 2_000;
/// One array of this soon fills what the kernel keeps for a reader who takes nothing.
const ARRAY: &str = "/statistics/user-creation/millisecond?limit=10000";
/// How many streams are open, as the server counts them.
const OPEN: &str = "newcycle_event_streams_open{kind=\"statistics\"} ";
/// As little as the kernel lets a reader take.
const RECEIVED: u32 = 4_096;

pub fn server_of(url: &str) -> std::net::SocketAddr {
    url.trim_start_matches("http://").parse().expect("an address")
}

/// How many bytes wait in the server's sockets, by the client's port.
fn unsent(server: std::net::SocketAddr) -> HashMap<u16, u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let local = format!(":{:04X}", server.port());
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&local))
        .filter_map(|row| {
            let port = u16::from_str_radix(row[2].rsplit(':').next()?, 16).ok()?;
            Some((port, u64::from_str_radix(row[4].split(':').next()?, 16).ok()?))
        })
        .collect()
}

pub async fn one_who_asks_and_reads_nothing(server: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(RECEIVED).expect("a small one");
    let mut connection = socket.connect(server).await.expect("a connection");
    connection.write_all(get(ARRAY).as_bytes()).await.expect("it is sent");
    connection
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn thousands_who_read_nothing_hold_nobody_up_and_may_all_come_back_at_once() {
    ConnectionSettings::default().raise_file_limit().expect("enough files");
    let name = new_database().await;
    let database = connect(&name).await;
    let place = Place::new("");
    let limits = [("NEWCYCLE_MAX_STREAMS_PER_KEY", "10000")];
    let mut server = Process::start(&name, "", &limits).await;
    place.moved(&server.api.url);
    let mut load = Load::start(&place, 4).await;
    load.users(
        &database.pool,
        "insert into users (created_at) select now() - n * interval '1 ms' from generate_series(1, 10000) n returning id",
    )
    .await;
    let address = server_of(&server.api.url);
    let silent = join_all((0..READERS).map(|_| one_who_asks_and_reads_nothing(address))).await;
    eventually(|| async {
        let unsent = unsent(address);
        let port = |reader: &TcpStream| reader.local_addr().expect("an address").port();
        let stuck = silent.iter().filter(|reader| unsent.get(&port(reader)).is_some_and(|bytes| *bytes > 0)).count();
        if stuck == READERS { Ok(()) } else { Err(format!("{stuck} are stuck")) }
    })
    .await;
    load.goes_on(100).await;
    // They break off, and ask again, with everybody else whose server was killed.
    for reader in silent {
        reader.set_zero_linger().expect("a socket");
    }
    server.child.kill().await.expect("it is killed");
    server = Process::start(&name, "", &limits).await;
    place.moved(&server.api.url);
    let address = server_of(&server.api.url);
    let back = join_all((0..READERS).map(|_| async {
        let mut reader = Client::on(TcpStream::connect(address).await.expect("a connection"));
        reader.send(&get(STREAM)).await;
        reader.until("event: snapshot").await;
        reader
    }))
    .await;
    load.goes_on(50).await;
    drop(back);
    load.settle(&database.pool).await;
}

#[tokio::test]
async fn readers_who_vanish_without_a_word_are_noticed() {
    let Some(island) = Island::raise() else { return };
    let name = new_database().await;
    let host = island.host();
    let settings =
        [("SERVER_HOST", host.as_str()), ("NEWCYCLE_AUTHENTICATION", "off"), ("NEWCYCLE_CLIENT_TIMEOUT", "3")];
    let on_the_island = format!("exec {} \"$0\" serve;", island.on_it());
    let (_proxy, url) = before(&name, &island.database()).await;
    let server = Process::on(&url, &data_directory(&name), &on_the_island, &settings).await;
    let streams = || async {
        // Who is on the island as well can still ask.
        let metrics = format!("exec {} curl --silent {}/metrics", island.on_it(), server.api.url);
        let answer = Command::new("sh").args(["-c", &metrics]).output().await.expect("curl");
        let text = String::from_utf8(answer.stdout).expect("text");
        text.lines().find_map(|line| line.strip_prefix(OPEN)).map(str::to_owned)
    };
    let until = async |wanted: &str| {
        eventually(|| async {
            let found = streams().await;
            if found.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("{found:?} streams")) }
        })
        .await;
    };
    let mut readers = Vec::new();
    for _ in 0..20 {
        readers.push(server.api.stream(STREAM, None).await);
    }
    until("20").await;
    island.plug(Cable::Clients, false);
    until("0").await;
    drop(readers);
}
