//! The server is killed and stopped under load.

use rustix::process::{Pid, Signal, kill_process};

use crate::faults::{Chance, Process};
use crate::harness::{connect, new_database};
use crate::load::{Load, Place};

/// So many times, at moments that nobody chose.
const TIMES: u64 = 6;

#[tokio::test]
async fn whenever_the_server_is_killed_what_it_acknowledged_is_there_and_nothing_else() {
    let name = new_database().await;
    let database = connect(&name).await;
    let mut server = Process::start(&name, "", &[]).await;
    let place = Place::new(&server.api.url);
    let load = Load::start(&place, 6).await;
    let mut chance = Chance(51);
    for _ in 0..TIMES {
        load.goes_on(20 + chance.below(80)).await;
        chance.pass(5_000).await;
        server.child.kill().await.expect("it is killed");
        server = Process::start(&name, "", &[]).await;
        place.moved(&server.api.url);
    }
    load.goes_on(50).await;
    load.settle(&database.pool).await;
}

#[tokio::test]
async fn a_server_that_stops_answers_all_who_have_connected() {
    let name = new_database().await;
    let database = connect(&name).await;
    let mut server = Process::start(&name, "", &[]).await;
    let place = Place::new(&server.api.url);
    let load = Load::start(&place, 6).await;
    let mut chance = Chance(52);
    for _ in 0..TIMES {
        load.goes_on(20 + chance.below(80)).await;
        let pid = server.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("it runs");
        kill_process(pid, Signal::TERM).expect("it is told");
        let ended = server.child.wait().await.expect("it ends");
        assert!(ended.success(), "{ended}");
        server = Process::start(&name, "", &[]).await;
        place.moved(&server.api.url);
    }
    load.goes_on(50).await;
    let tally = load.settle(&database.pool).await;
    assert!(tally.cut.is_empty(), "connections were cut without their answer: {:#?}", tally.cut);
}
