//! What docs/operations.md says of backups, done: whatever is restored, of whichever moment and wherever, the statistics are exact
//! and readers who come back see what there is now.

use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tempfile::TempDir;

use crate::doctor::doctor;
use crate::faults::Process;
use crate::harness::{eventually, in_memory};
use crate::load::{Load, Place};
use crate::postgres::Postgres;

/// What the guide has operators do where nothing else tells that history has changed: readers who saw more than was put back are
/// told everything anew.
const NEW_HISTORY: &str = "update statistics.state set epoch = gen_random_uuid()";

/// Runs a command of the guide in a shell. Nothing where one of its programs is missing (the npm package of Postgres has none
/// of them).
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn shell(command: &str, variables: &[(&str, &str)]) -> Option<()> {
    let output = Command::new("sh").args(["-ec", command]).envs(variables.iter().copied()).output();
    let Output { status, stderr, .. } = output.expect("a shell");
    let said = String::from_utf8_lossy(&stderr);
    if status.code() == Some(127) {
        println!("skipped: {said}");
        return None;
    }
    assert!(status.success(), "{command}: {said}");
    Some(())
}

async fn connect(postgres: &Postgres) -> PgConnection {
    PgConnection::connect(&postgres.url()).await.expect("it answers")
}

async fn tell(postgres: &Postgres, statements: &[&str]) {
    let mut connection = connect(postgres).await;
    for statement in statements {
        connection.execute(AssertSqlSafe(*statement)).await.expect(statement);
    }
}

/// Uses up transaction ids, as years do.
async fn grow_old(postgres: &Postgres) {
    let spend = "do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$";
    tell(postgres, &[spend]).await;
}

/// What a database that was restored has to show: exact statistics, and readers of the one before who see them.
async fn is_exact(restored: &Postgres, files: &Path, load: Load, place: &Place) {
    doctor(&restored.url(), &[], &["--deep"]).await.is_fine();
    let pool = PgPool::connect(&restored.url()).await.expect("it answers");
    let rows: i64 = sqlx::query_scalar("select count(*) from items").fetch_one(&pool).await.expect("a number");
    assert!(rows > 0, "something was restored");
    let (stated, counted): (i64, i64) = sqlx::query_as(
        "select (select sum(count)::bigint from reporting.totals), (select count(*) from statistics.events)",
    )
    .fetch_one(&pool)
    .await
    .expect("numbers");
    assert_eq!(stated, counted);

    // Before anybody looks, ids of transactions that were lost, and that readers have seen, are given to others.
    grow_old(restored).await;
    pool.execute("insert into users default values").await.expect("a user");
    let server = Process::on(&restored.url(), files, "", &[]).await;
    place.moved(&server.api.url);
    load.converges(&pool).await;
    let mut more = Load::start(place, 2).await;
    more.goes_on(20).await;
    more.stop().await;
    more.converges(&pool).await;
    load.converges(&pool).await;
    doctor(&restored.url(), &[], &["--deep"]).await.is_fine();
}

#[tokio::test]
async fn a_dump_of_a_busy_ledger_is_exact_in_another_cluster_whether_that_is_older_or_younger() {
    for is_older in [false, true] {
        let (source, target) = (Postgres::start().await, Postgres::start().await);
        grow_old(if is_older { &target } else { &source }).await;
        let server = Process::on(&source.url(), &source.files(), "", &[]).await;
        let place = Place::new(&server.api.url);
        let mut load = Load::start(&place, 4).await;
        load.goes_on(100).await;
        let directory = TempDir::new().expect("a directory");
        let dump = directory.path().join("newcycle.dump");
        let (from, to) = (source.url(), target.url());
        let variables = [("FROM", from.as_str()), ("TO", to.as_str()), ("DUMP", dump.to_str().expect("text"))];
        // While others write.
        if shell("pg_dump --format=custom --file=\"$DUMP\" \"$FROM\"", &variables).is_none() {
            return;
        }
        // What the dump does not have, and readers have seen.
        load.goes_on(100).await;
        load.stop().await;
        load.converges(&PgPool::connect(&source.url()).await.expect("it answers")).await;
        drop(server);

        tell(&target, &["create role newcycle_reader nologin"]).await;
        shell("pg_restore --exit-on-error --no-owner --dbname=\"$TO\" \"$DUMP\"", &variables);
        let newcycle = [("DATABASE_URL", to.as_str()), ("NEWCYCLE", env!("CARGO_BIN_EXE_newcycle"))];
        shell("\"$NEWCYCLE\" migrate", &newcycle);
        is_exact(&target, &target.files(), load, &place).await;
    }
}

#[tokio::test]
async fn a_physical_backup_goes_back_to_the_moment_that_was_asked_for() {
    let mut source = Postgres::start().await;
    let archive = tempfile::tempdir_in(in_memory()).expect("a directory");
    let target = Postgres::nowhere();
    let cluster = source.cluster();
    let base = archive.path().join("base");
    shell(
        "chown --reference=\"$CLUSTER\" \"$ARCHIVE\"",
        &[("CLUSTER", cluster.to_str().expect("text")), ("ARCHIVE", archive.path().to_str().expect("text"))],
    );
    let keep = format!("alter system set archive_command = 'cp %p {}/%f'", archive.path().display());
    tell(&source, &["alter system set archive_mode = on", &keep]).await;
    source.end(Signal::INT).await;
    source.start_again().await;
    let server = Process::on(&source.url(), &source.files(), "", &[]).await;
    let place = Place::new(&server.api.url);
    let mut load = Load::start(&place, 4).await;
    load.goes_on(50).await;
    let url = source.url();
    let backup = "pg_basebackup --dbname=\"$FROM\" --pgdata=\"$BASE\" --checkpoint=fast --wal-method=stream";
    let variables = [("FROM", url.as_str()), ("BASE", base.to_str().expect("text"))];
    if shell(backup, &variables).is_none() {
        return;
    }
    load.goes_on(50).await;
    tell(&source, &["select pg_create_restore_point('before the mistake')"]).await;
    load.goes_on(50).await;
    load.stop().await;
    load.converges(&PgPool::connect(&source.url()).await.expect("it answers")).await;
    let rows = "select count(*) from items";
    let all: i64 = sqlx::query_scalar(rows).fetch_one(&mut connect(&source).await).await.expect("a number");
    tell(&source, &["select pg_switch_wal()"]).await;
    eventually(|| async {
        let waiting: i64 =
            sqlx::query_scalar("select count(*) from pg_ls_archive_statusdir() where name like '%.ready'")
                .fetch_one(&mut connect(&source).await)
                .await
                .map_err(|error| error.to_string())?;
        if waiting == 0 { Ok(()) } else { Err("the log is not archived".to_owned()) }
    })
    .await;
    drop(server);
    source.end(Signal::KILL).await;

    let restore = "
        cp -a \"$OLD/pgpass\" \"$NEW/pgpass\"
        mv \"$BASE\" \"$NEW/cluster\"
        cat >> \"$NEW/cluster/postgresql.auto.conf\" <<END
archive_mode = off
restore_command = 'cp $ARCHIVE/%f %p'
recovery_target_name = 'before the mistake'
recovery_target_action = 'promote'
END
        touch \"$NEW/cluster/recovery.signal\"
        chown -R --reference=\"$OLD/cluster\" \"$NEW/cluster\"";
    let old = cluster.parent().expect("its directory");
    shell(
        restore,
        &[
            ("OLD", old.to_str().expect("text")),
            ("NEW", target.directory().to_str().expect("text")),
            ("BASE", base.to_str().expect("text")),
            ("ARCHIVE", archive.path().to_str().expect("text")),
        ],
    );
    let mut target = target;
    target.start_again().await;
    // It answers before it has come to its end.
    eventually(|| async {
        let is_over: bool = sqlx::query_scalar("select not pg_is_in_recovery()")
            .fetch_one(&mut connect(&target).await)
            .await
            .map_err(|error| error.to_string())?;
        if is_over { Ok(()) } else { Err("it recovers".to_owned()) }
    })
    .await;
    let left: i64 = sqlx::query_scalar(rows).fetch_one(&mut connect(&target).await).await.expect("a number");
    assert!(left < all, "what came after the moment is not there: {left} of {all}");
    is_exact(&target, &target.files(), load, &place).await;
}

#[tokio::test]
async fn a_copy_of_the_files_of_a_stopped_postgres_can_be_put_back() {
    let mut postgres = Postgres::start().await;
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[]).await;
    let place = Place::new(&server.api.url);
    let mut load = Load::start(&place, 4).await;
    load.goes_on(50).await;
    postgres.end(Signal::INT).await;
    let copy = tempfile::tempdir_in(in_memory()).expect("a directory");
    let cluster = postgres.cluster();
    let variables = [("CLUSTER", cluster.to_str().expect("text")), ("COPY", copy.path().to_str().expect("text"))];
    shell("cp -a \"$CLUSTER\" \"$COPY/cluster\"", &variables);
    postgres.start_again().await;
    load.goes_on(50).await;
    load.stop().await;
    load.converges(&PgPool::connect(&postgres.url()).await.expect("it answers")).await;
    drop(server);
    postgres.end(Signal::KILL).await;
    shell("rm -r \"$CLUSTER\"; cp -a \"$COPY/cluster\" \"$CLUSTER\"", &variables);
    postgres.start_again().await;
    tell(&postgres, &[NEW_HISTORY]).await;
    is_exact(&postgres, &postgres.files(), load, &place).await;
}
