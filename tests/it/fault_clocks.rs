//! Clocks that differ, and jump: the server's and Postgres'.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use reqwest::Method;
use sqlx::PgPool;
use tempfile::TempDir;

use crate::faults::Process;
use crate::harness::in_memory;
use crate::load::{Load, Place, Plan};
use crate::postgres::Postgres;

/// The clock of the programs that are told to go by it (libfaketime).
pub struct Clock {
    directory: TempDir,
    library: PathBuf,
}

impl Clock {
    /// One that is right. Nothing where the library is missing.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn new() -> Option<Self> {
        let Some(library) = library() else {
            println!("there is no libfaketime here: skipped");
            return None;
        };
        let directory = tempfile::tempdir_in(in_memory()).expect("a directory");
        let clock = Self { directory, library };
        clock.set(0);
        Some(clock)
    }

    /// By how many seconds it is wrong from now on.
    fn set(&self, seconds: i64) {
        // Whoever reads it meanwhile sees one or the other.
        let new = self.directory.path().join("new");
        fs::write(&new, format!("{seconds:+}")).expect("it is written");
        fs::rename(new, self.file()).expect("it is set");
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("clock")
    }

    /// What programs have to be told. Timers go by another clock, which nobody sets.
    pub fn environment(&self) -> [(&str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

fn library() -> Option<PathBuf> {
    let multiarch = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let places = [Path::new("/usr/lib"), Path::new("/usr/lib64"), Path::new("/usr/local/lib")];
    let places = places.iter().map(|place| (*place).to_owned()).chain(multiarch);
    places.map(|place| place.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// Or thereabouts.
fn assert_wrong_by(seconds: i64, told: SystemTime, who: &str) {
    let error = DateTime::<Utc>::from(told) - Utc::now();
    assert!((error.num_seconds() - seconds).abs() < 60, "{who} goes by another clock: {error}");
}

#[tokio::test]
async fn clocks_that_differ_and_jump_lose_nothing() {
    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    let (Some(of_postgres), Some(of_server)) = (Clock::new(), Clock::new()) else { return };
    let mut postgres = Postgres::start().await;
    postgres.go_by(&of_postgres).await;
    let environment = of_server.environment();
    let settings = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = Process::on(&postgres.url(), &postgres.files(), "", &settings).await;
    // Whenever this runs, an hour ends while the clock is set forward, and is yet to end when it is set back.
    let plan = Plan { writers: 6, pause: Duration::ZERO, resolutions: &["second", "minute", "hour", "day", "year"] };
    let load = Load::planned(&Place::new(&server.api.url), &plan).await;
    let pool = PgPool::connect(&postgres.url()).await.expect("it answers");
    load.goes_on(30).await;
    for offset in [-4 * DAY, 4 * DAY] {
        of_server.set(offset);
        load.goes_on(30).await;
    }
    let answer = server.api.request(Method::GET, "/livez").send().await.expect("an answer");
    let date = answer.headers()["date"].to_str().expect("text").to_owned();
    assert_wrong_by(4 * DAY, httpdate::parse_http_date(&date).expect("a date"), "the server");
    for offset in [HOUR, -HOUR, 0] {
        of_postgres.set(offset);
        let told: DateTime<Utc> =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(&pool).await.expect("the time");
        assert_wrong_by(offset, told.into(), "Postgres");
        load.goes_on(30).await;
    }
    load.settle(&pool).await;
}
