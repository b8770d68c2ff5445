//! Who is there, and in whose way.

use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use super::finding::Finding;
use super::for_people;
use super::questions::{Questions, Unanswered};
use crate::database::Connector;

/// A notification takes a round trip.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(3);
/// From half of the queue on servers tell nothing (`migrations/0010_quiet_when_full.sql`).
const FULL_QUEUE: f64 = 0.5;
const FILLING_QUEUE: f64 = 0.1;
/// A program that does something between two statements takes less. Beyond, somebody forgot a transaction.
const IDLE_SECONDS: f64 = 60.0;
/// So long a lock that keeps others out may be held by somebody who does nothing.
const LOCKING_IDLE_SECONDS: f64 = 1.0;
/// Loads lock each other out for moments only.
const WAITING_SECONDS: f64 = 5.0;

/// Listens, and notifies from another connection: a proxy that pools by transaction hands on what arrives while a transaction
/// is under way, so that who notifies themselves may hear it.
pub(super) async fn round_trip(questions: &mut Questions, connector: &Connector) -> Result<Vec<Finding>, Unanswered> {
    let channel = format!("newcycle_doctor_{}", Uuid::new_v4().simple());
    questions.tell(&format!("listen {channel}")).await?;
    Questions::to(connector).await?.tell(&format!("notify {channel}")).await?;
    let heard = timeout(NOTIFICATION_TIMEOUT, async {
        while let Some(notification) = questions.notifications.recv().await {
            if notification.channel() == channel {
                return true;
            }
        }
        false
    });
    let was_heard = heard.await.unwrap_or(false);
    // A proxy gives this connection to somebody else.
    questions.tell(&format!("unlisten {channel}")).await?;
    if was_heard {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::problem(
        "LISTEN works, but a notification does not arrive: a proxy pools by transaction (PgBouncer: \
        pool_mode = transaction)",
        "name Postgres itself in DATABASE_URL (its port is 5432 most often), or a pool with pool_mode = session",
    )])
}

/// The queue of notifications is the whole cluster's, and held up by whoever listens and idles in a transaction.
pub(super) async fn queue(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let usage: f64 = questions.ask_one("select pg_notification_queue_usage()").await?.get(0);
    let percent = usage * 100.0;
    if usage < FILLING_QUEUE {
        return Ok(vec![Finding::ok(format!("the queue of notifications is {percent:.0} % full"))]);
    }
    let holders = questions
        .ask(
            "select pid, coalesce(application_name, ''), coalesce(datname, '')::text,
                extract(epoch from clock_timestamp() - xact_start)::float8
            from pg_stat_activity
            where state like 'idle in transaction%' and pid <> pg_backend_pid()
            order by xact_start limit 1",
        )
        .await?;
    let (who, remedy) = match holders.first() {
        None => (
            "whoever holds it up is not idle, or cannot be seen by this role".to_owned(),
            "as a superuser: select pid, application_name, xact_start from pg_stat_activity order by xact_start"
                .to_owned(),
        ),
        Some(row) => {
            let pid: i32 = row.get(0);
            let (program, database, since): (String, String, f64) = (row.get(1), row.get(2), row.get(3));
            let since = for_people(since);
            (
                format!(
                    "most likely held up by pid {pid} ({program}, database {database}), idle in a transaction for {since}"
                ),
                format!("select pg_terminate_backend({pid})"),
            )
        }
    };
    let found = format!("the queue of notifications is {percent:.0} % full, {who}");
    Ok(vec![if usage > FULL_QUEUE {
        Finding::problem(format!("{found}; news is a second late now"), remedy)
    } else {
        Finding::warning(found, remedy)
    }])
}

/// Sessions that forgot a transaction, and those for which others wait.
pub(super) async fn sessions(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let mut findings = Vec::new();
    let idle = questions
        .ask(&format!(
            "select a.pid, coalesce(a.application_name, ''), coalesce(a.usename, '')::text,
                extract(epoch from clock_timestamp() - a.xact_start)::float8,
                l.locks
            from pg_stat_activity a
            left join lateral (
                select string_agg(distinct c.relname::text || ' (' || l.mode || ')', ', ') as locks
                from pg_locks l
                join pg_class c on c.oid = l.relation
                join pg_namespace n on n.oid = c.relnamespace
                where l.pid = a.pid and l.granted and l.database = (select oid from pg_database where datname = current_database())
                    and n.nspname in ('public', 'statistics', 'access', 'jobs')
                    and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            ) l on true
            where a.datname = current_database() and a.state like 'idle in transaction%'
                and (
                    a.state_change < clock_timestamp() - interval '{IDLE_SECONDS} seconds'
                    or l.locks is not null
                        and a.state_change < clock_timestamp() - interval '{LOCKING_IDLE_SECONDS} seconds'
                )
            order by a.xact_start limit 5"
        ))
        .await?;
    for row in idle {
        let pid: i32 = row.get(0);
        let (program, user, since): (String, String, f64) = (row.get(1), row.get(2), row.get(3));
        let locks: Option<String> = row.get(4);
        let who = format!("pid {pid} ({program}, user {user}) idles in a transaction for {}", for_people(since));
        let remedy = format!("select pg_terminate_backend({pid})");
        findings.push(match locks {
            Some(locks) => Finding::problem(format!("{who} and keeps others out of {locks}"), remedy),
            None => Finding::warning(format!("{who}: it keeps dead rows, and locks"), remedy),
        });
    }
    let blocked = questions
        .ask(&format!(
            "select b.pid, coalesce(b.application_name, ''), b.state, left(coalesce(b.query, ''), 60),
                extract(epoch from clock_timestamp() - b.xact_start)::float8, count(distinct w.pid)
            from pg_stat_activity w
            cross join lateral unnest(pg_blocking_pids(w.pid)) as blocking (pid)
            join pg_stat_activity b on b.pid = blocking.pid
            where w.datname = current_database() and w.wait_event_type = 'Lock'
                and w.query_start < clock_timestamp() - interval '{WAITING_SECONDS} seconds'
                and b.wait_event_type is distinct from 'Lock'
            group by 1, 2, 3, 4, 5
            order by 6 desc limit 5"
        ))
        .await?;
    for row in blocked {
        let pid: i32 = row.get(0);
        let (program, state, query): (String, Option<String>, String) = (row.get(1), row.get(2), row.get(3));
        let (since, waiting): (Option<f64>, i64) = (row.get(4), row.get(5));
        findings.push(Finding::problem(
            format!(
                "sessions that wait for a lock of pid {pid} ({program}, {}, in a transaction for {}: {query}): {waiting}",
                state.unwrap_or_default(),
                for_people(since.unwrap_or_default())
            ),
            format!("select pg_terminate_backend({pid}), if it is nothing that has to end by itself"),
        ));
    }
    Ok(findings)
}
