//! The primary is lost, and a standby takes over.

use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::faults::Process;
use crate::harness::eventually;
use crate::load::{Load, Place};
use crate::postgres::Postgres;
use crate::proxy::{Network, Proxy};

/// A primary, and a standby that has everything it wrote until now.
async fn pair() -> (Postgres, Postgres) {
    let mut primary = Postgres::start().await;
    let standby = primary.standby().await;
    until(&primary, "select count(*) = 1 from pg_stat_replication where state = 'streaming'").await;
    (primary, standby)
}

async fn until(postgres: &Postgres, question: &'static str) {
    let pool = PgPool::connect(&postgres.url()).await.expect("it answers");
    eventually(|| async {
        let answer: bool = sqlx::query_scalar(question).fetch_one(&pool).await.map_err(|error| error.to_string())?;
        if answer { Ok(()) } else { Err(format!("not yet: {question}")) }
    })
    .await;
}

async fn tell(postgres: &Postgres, commands: &[&'static str]) {
    let mut connection = PgConnection::connect(&postgres.url()).await.expect("a connection");
    for command in commands {
        connection.execute(*command).await.expect(command);
    }
}

/// The URL of both, in this order.
fn url_of_both(first: &Postgres, addresses: [std::net::SocketAddr; 2]) -> String {
    let [one, other] = addresses;
    first.url().replace(&first.address().to_string(), &format!("{one},{other}"))
}

#[tokio::test]
async fn when_a_synchronous_standby_takes_over_nothing_is_lost() {
    let (mut primary, standby) = pair().await;
    tell(&primary, &["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"]).await;
    until(&primary, "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'").await;
    // The standby is named first, and is not taken while it is one.
    let url = url_of_both(&primary, [standby.address(), primary.address()]);
    let server = Process::on(&url, &primary.files(), "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 6).await;
    load.goes_on(50).await;
    primary.end(Signal::KILL).await;
    load.is_refused(1).await;
    tell(&standby, &["select pg_promote()"]).await;
    load.goes_on(100).await;
    load.settle(&PgPool::connect(&standby.url()).await.expect("it answers")).await;
}

#[tokio::test]
async fn when_a_standby_takes_over_that_lacks_the_last_transactions_streams_show_what_it_has() {
    let (mut primary, standby) = pair().await;
    let (one, other) =
        (Proxy::before(primary.address(), "127.0.0.1").await, Proxy::before(standby.address(), "127.0.0.1").await);
    let url = url_of_both(&primary, [one.address, other.address]);
    let server = Process::on(&url, &primary.files(), "", &[]).await;
    let mut load = Load::start(&Place::new(&server.api.url), 4).await;
    load.goes_on(50).await;
    tell(&standby, &["alter system set primary_conninfo = ''", "select pg_reload_conf()"]).await;
    until(&primary, "select count(*) = 0 from pg_stat_replication").await;
    // What comes now is on the primary only, and in the streams.
    load.goes_on(50).await;
    load.stop().await;
    load.converges(&PgPool::connect(&primary.url()).await.expect("it answers")).await;
    other.set(Network::Cut);
    primary.end(Signal::KILL).await;
    // Before anybody looks, the new primary has given the ids of what was lost to others.
    tell(&standby, &["select pg_promote()"]).await;
    let pool = PgPool::connect(&standby.url()).await.expect("it answers");
    for _ in 0..400 {
        sqlx::query("insert into users default values").execute(&pool).await.expect("a user");
    }
    other.set(Network::Fine);
    load.converges(&pool).await;
}
