//! The hosts of the connection string: who answers, who takes writes, how far away they are.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::finding::{Finding, Report};
use crate::database::{CONNECT_TIMEOUT, Connector, OLDEST_VERSION, Primary};

/// Connecting takes some round trips, and so do the questions.
const HOST_TIMEOUT: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(3));
/// Of so many round trips the shortest counts: a busy machine makes some of them longer, none shorter.
const ROUND_TRIPS: usize = 3;
/// A request takes several round trips, and other data centres are this far away.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(20);
/// NTP keeps clocks within milliseconds. Above this, streams show their newest bucket too late or too early.
const CLOCKS_DIFFER: f64 = 1.0;
/// The database takes events of at most five minutes from now: above this, those of clients may be refused.
const CLOCKS_DIFFER_MUCH: f64 = 60.0;

/// What a host says of itself.
struct Host {
    version: String,
    version_number: i32,
    is_standby: bool,
    is_receiving: bool,
    system: i64,
    round_trip: Duration,
    /// By how many seconds its clock is ahead of ours.
    ahead: f64,
}

/// Asks all hosts at once; how to connect to the one that takes writes.
pub(super) async fn check(primary: &Primary, report: &mut Report) -> Option<Connector> {
    let asked = primary.hosts().map(async |(name, connector)| {
        let answer = timeout(HOST_TIMEOUT, ask(connector)).await;
        (name, connector, answer)
    });
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for (name, connector, answer) in join_all(asked).await {
        match answer {
            Ok(Ok(host)) => found.push((name, connector, host)),
            Ok(Err(error)) => silent.push(refused(&name, connector.config(), &error)),
            Err(_) => silent.push(Finding::problem(
                format!("{name} does not answer within {} s", HOST_TIMEOUT.as_secs()),
                "does it run? may this machine reach it (firewall, `pg_isready -h HOST -p PORT`)? is it out of memory or disk?",
            )),
        }
    }
    let primaries: Vec<_> = found.iter().filter(|(_, _, host)| !host.is_standby).collect();
    if !primaries.is_empty() {
        // The server goes on with those that there are; a password that is wrong will be wrong after a failover, too.
        silent.iter_mut().for_each(|finding| finding.mark = super::finding::Mark::Warning);
    }
    for (name, _, host) in &found {
        report.add("host", describe(name, host));
    }
    report.add("host", silent);
    let systems = found.iter().map(|(_, _, host)| host.system);
    if systems.clone().min() != systems.max() {
        report.add(
            "host",
            [Finding::problem(
                "the hosts are not of one cluster: their system identifiers differ, so none can take over from another",
                "make the standby anew from the primary (pg_basebackup), or take the wrong host out of DATABASE_URL",
            )],
        );
    }
    match primaries.as_slice() {
        [] if found.is_empty() => None,
        [] => {
            report.add("primary", [Finding::problem(
                "none of the hosts takes writes: all that answer are standbys",
                "if the primary is lost, `select pg_promote()` on the standby that is to take over (docs/operations.md, Failover)",
            )]);
            None
        }
        [(name, connector, _)] => {
            report.add("primary", [Finding::ok(format!("{name} takes writes"))]);
            Some((*connector).clone())
        }
        [(name, connector, _), others @ ..] => {
            let names: Vec<_> = others.iter().map(|(name, _, _)| name.as_str()).collect();
            report.add("primary", [Finding::problem(
                format!("{name} and {} take writes, both: servers may write to either", names.join(" and ")),
                "stop the one that is not to be the primary at once, and make it a standby (pg_rewind, pg_basebackup)",
            )]);
            Some((*connector).clone())
        }
    }
}

async fn ask(connector: &Connector) -> Result<Host, tokio_postgres::Error> {
    let (client, connection) = connector.called("newcycle doctor").connect().await?;
    let asking = async {
        let row = client
            .query_typed(
                "select current_setting('server_version'), current_setting('server_version_num')::int,
                    pg_is_in_recovery(), (select count(*) > 0 from pg_stat_wal_receiver), system_identifier
                from pg_control_system()",
                &[],
            )
            .await?;
        let mut host = Host {
            version: row[0].get(0),
            version_number: row[0].get(1),
            is_standby: row[0].get(2),
            is_receiving: row[0].get(3),
            system: row[0].get(4),
            round_trip: Duration::MAX,
            ahead: 0.0,
        };
        for _ in 0..ROUND_TRIPS {
            let (begin, before) = (Instant::now(), Utc::now());
            let row = client.query_typed("select extract(epoch from clock_timestamp())::float8", &[]).await?;
            let took = begin.elapsed();
            if took < host.round_trip {
                host.round_trip = took;
                let ours = before.timestamp_micros() as f64 / 1e6 + took.as_secs_f64() / 2.0;
                host.ahead = row[0].get::<_, f64>(0) - ours;
            }
        }
        Ok(host)
    };
    tokio::select! {
        host = asking => host,
        // It ends after the last answer only, or with the reason for which there is none.
        Err(error) = connection => Err(error),
    }
}

fn describe(name: &str, host: &Host) -> Vec<Finding> {
    let Host { version, version_number, is_standby, is_receiving, round_trip, ahead, .. } = host;
    let role = if *is_standby { "a standby" } else { "the primary" };
    let milliseconds = round_trip.as_secs_f64() * 1_000.0;
    let mut findings =
        vec![Finding::ok(format!("{name} is {role}, PostgreSQL {version}, a round trip takes {milliseconds:.1} ms"))];
    if *version_number < OLDEST_VERSION {
        let found = format!("{name} is PostgreSQL {version}; newcycle needs 15 or later");
        findings.push(Finding::problem(found, "upgrade Postgres: docs/operations.md, Upgrade"));
    }
    if *round_trip > LONG_ROUND_TRIP {
        let found = format!("a round trip to {name} takes {milliseconds:.0} ms, and a request takes several");
        findings.push(Finding::warning(found, "run the servers beside Postgres, or look at the network"));
    }
    if *is_standby && !is_receiving {
        let found = format!("the standby {name} receives nothing from a primary: it falls behind");
        let remedy = "look at its log, at primary_conninfo, and at pg_stat_replication on the primary";
        findings.push(Finding::warning(found, remedy));
    }
    if ahead.abs() > CLOCKS_DIFFER + round_trip.as_secs_f64() {
        let way = if *ahead > 0.0 { "ahead of" } else { "behind" };
        let found = format!("the clock of {name} is {:.1} s {way} this machine's", ahead.abs());
        let remedy = "have both follow NTP: `timedatectl`, `chronyc tracking`";
        findings.push(match ahead.abs() > CLOCKS_DIFFER_MUCH {
            true => Finding::problem(found, remedy),
            false => Finding::warning(found, remedy),
        });
    }
    findings
}

/// What is wrong with a host that does not let us in, and what to do about it.
fn refused(name: &str, config: &tokio_postgres::Config, error: &tokio_postgres::Error) -> Finding {
    let user = config.get_user().unwrap_or("newcycle");
    let database = config.get_dbname().unwrap_or(user);
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    let remedy = match error.code() {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => format!(
            "set the password of {user} in PGPASSWORD or DATABASE_URL, or a new one with `\\password {user}` in psql; \
            pg_hba.conf says who may come in from where"
        ),
        Some(&SqlState::INVALID_CATALOG_NAME) => format!("createdb -h HOST -U postgres -O {user} {database}"),
        Some(&SqlState::TOO_MANY_CONNECTIONS) => {
            "end sessions that nobody needs, raise max_connections, or lower NEWCYCLE_DATABASE_CONNECTIONS".to_owned()
        }
        Some(&SqlState::CANNOT_CONNECT_NOW) => {
            "it starts, stops or recovers: wait, and look at Postgres' log".to_owned()
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => format!("grant connect on database {database} to {user}"),
        Some(_) => "look at Postgres' log".to_owned(),
        None if reason.contains("password missing") => {
            format!("set the password of {user} in PGPASSWORD or DATABASE_URL")
        }
        None if reason.contains("peer certificate") => "sslrootcert is to name the file with the certificate of the authority, and with \
            verify-full the host's name must be in the server's certificate (openssl s_client -starttls postgres -connect HOST:PORT)"
            .to_owned(),
        None if reason.contains("TLS") => {
            "set ssl = on in Postgres, with a certificate and its key, or sslmode=prefer where nobody is on the way".to_owned()
        }
        None => "does it run there (`systemctl status postgresql`), on that port, and does it listen to this machine \
            (listen_addresses, firewall)?"
            .to_owned(),
    };
    Finding::problem(format!("{name} cannot be used: {reason}"), remedy)
}
