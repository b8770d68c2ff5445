//! Postgres itself: settings that lose data, connections, transaction ids, the write-ahead log.

use super::finding::Finding;
use super::questions::{Questions, Unanswered};
use super::{ServeSettings, for_people};
use crate::database::{DatabaseSettings, OWN_CONNECTIONS};
use crate::exports::Store;

/// Beside those of its pools: one that listens, and one for `/metrics`.
const LISTENING_CONNECTIONS: i64 = 2;
/// Autovacuum freezes rows when their transactions are 200 million behind, unless told otherwise. Further behind it fails to.
const OLD_TRANSACTIONS: i64 = 500_000_000;
/// Postgres stops taking writes at 2,100 million.
const VERY_OLD_TRANSACTIONS: i64 = 1_500_000_000;
/// A slot that nobody reads keeps the log for ever. 1 GB is an hour of a busy ledger.
const RETAINED_BYTES: i64 = 1 << 30;

/// Whether somebody on the way can read along, and change what is said.
pub(super) async fn encryption(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let row = questions
        .ask_one(
            "select coalesce(version, ''), coalesce(cipher, ''), host(inet_client_addr()),
                inet_client_addr() is null or inet_client_addr() <<= any (array['127.0.0.0/8', '10.0.0.0/8', '172.16.0.0/12',
                    '192.168.0.0/16', '169.254.0.0/16', '::1', 'fc00::/7', 'fe80::/10']::inet[])
            from pg_stat_ssl where pid = pg_backend_pid()",
        )
        .await?;
    let (version, cipher, client, is_near): (&str, &str, Option<&str>, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    Ok(vec![match (version, client) {
        ("", None) => Finding::ok("the connection is a Unix socket's, and needs no encryption"),
        ("", Some(client)) if is_near => Finding::ok(format!(
            "not encrypted, and from {client}, which is no public address (sslmode=require encrypts)"
        )),
        ("", Some(client)) => Finding::warning(
            format!("not encrypted, and from {client}: whoever is on the way reads passwords and rows"),
            "add sslmode=verify-full to DATABASE_URL (sslrootcert names the authority, if it is no public one); Postgres needs ssl = on",
        ),
        (version, _) => Finding::ok(format!("encrypted by {version} with {cipher}")),
    }])
}

/// Settings with which committed rows are lost, or the server does not work. The defaults of a new session count, not those
/// of the one that asks.
pub(super) async fn settings(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask(
            "select name, reset_val from pg_settings
            where name in ('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'track_counts',
                'wal_level', 'session_replication_role', 'default_transaction_read_only', 'statement_timeout')",
        )
        .await?;
    let mut findings = Vec::new();
    for row in rows {
        let (name, value): (String, String) = (row.get(0), row.get(1));
        let off = value == "off";
        let on = |why: &str| {
            let remedy = format!("alter system set {name} = 'on'; select pg_reload_conf(){}", by_role(&name));
            Finding::problem(format!("{name} is {value}: {why}"), remedy)
        };
        match name.as_str() {
            "fsync" if off => {
                findings.push(on("a power cut loses what was acknowledged, or all of the database"));
            }
            "full_page_writes" if off => findings.push(on("a power cut may damage the database")),
            "synchronous_commit" if off => {
                findings.push(on("what was acknowledged in the last moments is lost when Postgres crashes"));
            }
            "autovacuum" | "track_counts" if off => {
                findings.push(on("tables grow without end, and Postgres stops when it runs out of transaction ids"));
            }
            "wal_level" if value == "minimal" => findings.push(Finding::warning(
                "wal_level is minimal: there can be no standby, and no backup to go on from (PITR)",
                "alter system set wal_level = 'replica'; then restart Postgres",
            )),
            "session_replication_role" if value != "origin" => findings.push(Finding::problem(
                format!("session_replication_role is {value}: triggers do not fire, so nothing is counted or refused"),
                "alter role … reset session_replication_role (or alter database, alter system); then restart the servers, \
                and `select statistics.rebuild()`",
            )),
            "default_transaction_read_only" if value == "on" => findings.push(Finding::problem(
                "default_transaction_read_only is on: nothing can be written",
                "alter system reset default_transaction_read_only; select pg_reload_conf() (or alter role, alter database); \
                providers of Postgres set it when the disk is full",
            )),
            "statement_timeout" if value != "0" => findings.push(Finding::warning(
                format!("statement_timeout is {value} ms: bulk loads, exports and recounts that take longer fail"),
                "alter role … set statement_timeout = 0, for the role that the server uses",
            )),
            _ => {}
        }
    }
    // Time zones come from the system's files where Postgres was built so.
    if let Err(Unanswered::Failed(reason)) = questions.ask("select now() at time zone 'Europe/Berlin'").await {
        findings.push(Finding::warning(
            format!("Postgres knows no time zones, which reporting.series takes: {reason}"),
            "install the system's time zones (tzdata) where Postgres runs",
        ));
    }
    Ok(findings)
}

fn by_role(name: &str) -> &'static str {
    match name {
        "synchronous_commit" => " (and alter role …, alter database … reset it, where they set it)",
        _ => "",
    }
}

/// Whether there are connections for all servers that there are, and for one more.
pub(super) async fn capacity(
    questions: &Questions,
    serve: &ServeSettings,
    database: &DatabaseSettings,
) -> Result<Vec<Finding>, Unanswered> {
    let row = questions
        .ask_one(
            "select current_setting('max_connections')::bigint
                    - current_setting('superuser_reserved_connections')::bigint
                    - coalesce(current_setting('reserved_connections', true), '0')::bigint,
                (select count(*) from pg_stat_activity
                    where application_name = 'newcycle listener' and datname = current_database()),
                (select count(*) from pg_stat_activity where backend_type = 'client backend'
                    and not (datname is not distinct from current_database() and usename is not distinct from current_user)),
                (select rolconnlimit from pg_roles where rolname = current_user)::bigint,
                (select datconnlimit from pg_database where datname = current_database())::bigint,
                (select count(distinct coalesce(client_addr::text, 'here')) from pg_stat_activity
                    where application_name = 'newcycle listener' and datname = current_database())",
        )
        .await?;
    let [available, servers, others, of_role, of_database, machines]: [i64; 6] = std::array::from_fn(|n| row.get(n));
    let exports = i64::try_from(serve.exports.export_workers).unwrap_or(i64::MAX);
    let each = i64::from(database.database_connections) + i64::from(OWN_CONNECTIONS) + LISTENING_CONNECTIONS;
    let each = each.saturating_add(exports);
    let needed = each.saturating_mul(servers.max(1));
    let mut findings = Vec::new();
    let limits = [("max_connections", available - others), ("the role", of_role), ("the database", of_database)];
    for (whose, limit) in limits.into_iter().filter(|(_, limit)| *limit != -1) {
        if needed > limit {
            findings.push(Finding::problem(
                format!(
                    "servers: {}; they may take {needed} connections ({each} each), and {whose} leaves room for {limit}",
                    servers.max(1),
                ),
                match whose {
                    "max_connections" => format!(
                        "alter system set max_connections = {}; then restart Postgres. Or lower \
                        NEWCYCLE_DATABASE_CONNECTIONS",
                        (needed + others + each) / 10 * 10 + 20
                    ),
                    "the role" => "alter role … connection limit -1".to_owned(),
                    _ => "alter database … connection limit -1".to_owned(),
                },
            ));
        }
    }
    if machines > 1 && serve.exports.export_store == Store::DataDirectory {
        findings.push(Finding::warning(
            format!(
                "servers run on {machines} machines, and files of exports are kept on one: others cannot send them"
            ),
            "NEWCYCLE_EXPORT_STORE=s3://bucket/prefix, or a directory that all of them share",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!(
            "servers that run: {servers}; connections that {} may take: {needed} of {}",
            servers.max(1),
            available - others
        )));
    }
    Ok(findings)
}

/// Transaction ids wrap around: Postgres stops taking writes long before, and warns in its log only.
pub(super) async fn transaction_ids(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let row = questions
        .ask_one(
            "select datname::text, age(datfrozenxid)::bigint, mxid_age(datminmxid)::bigint,
                current_setting('autovacuum_freeze_max_age')::bigint
            from pg_database order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc limit 1",
        )
        .await?;
    let name: String = row.get(0);
    let age = row.get::<_, i64>(1).max(row.get(2));
    let late = OLD_TRANSACTIONS.max(row.get::<_, i64>(3) / 2 * 3);
    if age < late {
        return Ok(vec![Finding::ok(format!("the oldest transaction id is {} million behind", age / 1_000_000))]);
    }
    let found = format!(
        "the oldest transaction id of the database {name} is {} million behind, and Postgres stops taking writes at 2,100",
        age / 1_000_000
    );
    let remedy = format!("end old transactions and slots (see sessions, wal), then `vacuumdb --freeze -d {name}`");
    Ok(vec![if age < VERY_OLD_TRANSACTIONS {
        Finding::warning(found, remedy)
    } else {
        Finding::problem(found, remedy)
    }])
}

/// The log piles up when its archive cannot be written, or when a slot is not read: the disk fills.
pub(super) async fn write_ahead_log(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let mut findings = Vec::new();
    let archive = questions
        .ask(
            "select last_failed_wal, extract(epoch from now() - coalesce(last_archived_time, stats_reset))::float8
            from pg_stat_archiver
            where current_setting('archive_mode') <> 'off'
                and last_failed_time > coalesce(last_archived_time, '-infinity')",
        )
        .await?;
    for row in archive {
        let (file, since): (Option<String>, Option<f64>) = (row.get(0), row.get(1));
        findings.push(Finding::problem(
            format!(
                "the archive of the write-ahead log fails, at {}, for {}: no restore gets further than that, and the \
                disk fills",
                file.unwrap_or_default(),
                for_people(since.unwrap_or_default())
            ),
            "Postgres' log says why archive_command failed: repair its target; Postgres goes on by itself",
        ));
    }
    let slots = questions
        .ask(&format!(
            "select slot_name::text, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
            from pg_replication_slots
            where pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > {RETAINED_BYTES}"
        ))
        .await?;
    for row in slots {
        let (name, is_active, bytes): (String, bool, i64) = (row.get(0), row.get(1), row.get(2));
        let found = format!("the replication slot {name} holds {} GB of the write-ahead log", bytes >> 30);
        findings.push(if is_active {
            Finding::warning(found, "its standby is behind: look at its log and its network")
        } else {
            let found = format!("{found}, and nobody reads it: the disk fills");
            Finding::problem(found, format!("start its standby, or select pg_drop_replication_slot('{name}')"))
        });
    }
    let prepared = questions
        .ask(
            "select gid, extract(epoch from now() - prepared)::float8 from pg_prepared_xacts
            where prepared < now() - interval '1 minute' order by prepared limit 3",
        )
        .await?;
    for row in prepared {
        let (name, since): (String, f64) = (row.get(0), row.get(1));
        findings.push(Finding::problem(
            format!("the prepared transaction '{name}' waits for its end since {}", for_people(since)),
            format!("rollback prepared '{name}', or commit prepared '{name}', as whoever prepared it says"),
        ));
    }
    Ok(findings)
}
