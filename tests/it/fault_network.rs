//! The network between the server and Postgres: cut, slow, and silent, which nobody is told of.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use reqwest::StatusCode;

use crate::api::Events;
use crate::faults::{Obstacle, Process};
use crate::harness::{connect, data_directory, new_database, url};
use crate::load::{Load, Place};
use crate::proxy::{Network, Proxy};

/// A network before a database, at an address of this machine; and the database's URL through it.
pub async fn before(name: &str, host: &str) -> (Proxy, String) {
    let url = url(name).await;
    let target = url.rsplit_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL").0;
    let proxy = Proxy::before(target.parse::<SocketAddr>().expect("an address"), host).await;
    let url = url.replace(target, &proxy.address.to_string());
    (proxy, url)
}

/// Waits until a stream says that; the stream goes on meanwhile.
async fn until_told(events: &mut Events, status: &str) {
    events.next_where(|event| event.name == "status" && event.data["status"] == status).await;
}

#[tokio::test]
async fn a_network_that_is_cut_slow_or_silent_is_noticed_and_healed_without_a_restart() {
    let name = new_database().await;
    let database = connect(&name).await;
    let (proxy, url) = before(&name, "127.0.0.1").await;
    let server = Process::on(&url, &data_directory(&name), "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 4).await;
    for network in [Network::Cut, Network::Silent, Network::Cut, Network::Silent] {
        load.goes_on(20).await;
        let mut events = server.api.stream("/statistics/stream?resolution=minute", None).await;
        until_told(&mut events, "live").await;
        proxy.set(network);
        until_told(&mut events, "stale").await;
        // Whoever asks is answered, though not with what was asked for.
        let (status, _) = server.api.get("/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        proxy.set(Network::Fine);
        until_told(&mut events, "live").await;
    }
    proxy.set(Network::Slow(Duration::from_millis(50)));
    load.goes_on(20).await;
    proxy.set(Network::Fine);
    load.goes_on(50).await;
    load.settle(&database.pool).await;
}

/// A machine of its own, as far as the network goes, on two cables: one to the database, one to everybody else.
pub struct Island {
    number: u8,
}

impl Island {
    /// Nothing where networks cannot be made.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    pub fn raise() -> Option<Self> {
        static RAISED: AtomicU8 = AtomicU8::new(0);
        let island = Self { number: RAISED.fetch_add(1, Ordering::Relaxed) };
        let name = island.name();
        let mut commands = vec![format!("netns add {name}"), format!("-n {name} link set lo up")];
        for cable in [Cable::Database, Cable::Clients] {
            let (here, there) = (island.end(cable, 0), island.end(cable, 1));
            commands.extend([
                format!("link add {here} type veth peer name {there} netns {name}"),
                format!("addr add {}/30 dev {here}", island.address(cable, 1)),
                format!("link set {here} up"),
                format!("-n {name} addr add {}/30 dev {there}", island.address(cable, 2)),
                format!("-n {name} link set {there} up"),
            ]);
        }
        if commands.iter().all(|command| ip(command)) {
            return Some(island);
        }
        println!("no networks can be made here: skipped");
        None
    }

    fn name(&self) -> String {
        format!("newcycle{}-{}", std::process::id(), self.number)
    }

    /// Names have fifteen letters at most.
    fn end(&self, cable: Cable, end: u8) -> String {
        format!("nc{}{}{}{end}", std::process::id(), char::from(b'a' + self.number), cable as u8)
    }

    fn address(&self, cable: Cable, end: u8) -> String {
        format!("10.213.{}.{end}", 2 * self.number + cable as u8)
    }

    /// Where those on the island find the database.
    pub fn database(&self) -> String {
        self.address(Cable::Database, 1)
    }

    /// Where others find the island.
    pub fn host(&self) -> String {
        self.address(Cable::Clients, 2)
    }

    /// What makes a shell's command one of the island.
    pub fn on_it(&self) -> String {
        format!("ip netns exec {}", self.name())
    }

    /// Pulls a cable, or plugs it in again. Nobody is told.
    pub fn plug(&self, cable: Cable, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        assert!(ip(&format!("link set {} {state}", self.end(cable, 0))), "the cable is there");
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Cable {
    Database,
    Clients,
}

impl Drop for Island {
    fn drop(&mut self) {
        // Its cables go with it.
        ip(&format!("netns delete {}", self.name()));
    }
}

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn connections_that_are_lost_without_a_word_are_given_up() {
    let Some(island) = Island::raise() else { return };
    let name = new_database().await;
    let database = connect(&name).await;
    let (proxy, url) = before(&name, &island.database()).await;
    let on_the_island = format!("exec {} \"$0\" serve;", island.on_it());
    let host = island.host();
    let settings = [("SERVER_HOST", host.as_str()), ("NEWCYCLE_AUTHENTICATION", "off")];
    let server = Process::on(&url, &data_directory(&name), &on_the_island, &settings).await;
    let load = Load::start(&Place::new(&server.api.url), 4).await;
    load.goes_on(20).await;
    let mut events = server.api.stream("/statistics/stream?resolution=minute", None).await;
    until_told(&mut events, "live").await;
    // Writers wait for an answer, which is lost, as is the news that the other end has forgotten them.
    let obstacle = Obstacle::before("transfers", &name).await;
    obstacle.is_met(&database.pool).await;
    island.plug(Cable::Database, false);
    proxy.forget().await;
    until_told(&mut events, "stale").await;
    obstacle.remove().await;
    island.plug(Cable::Database, true);
    until_told(&mut events, "live").await;
    // The writer that waited has another connection by now: whoever comes next is answered.
    load.transfers_go_on(5).await;
    load.settle(&database.pool).await;
}
