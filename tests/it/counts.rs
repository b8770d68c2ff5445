//! The statistics against a recount of the ledger: every resolution, in zones with peculiar clocks, wherever the counts
//! are kept at the time.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgPool, Postgres};
use uuid::Uuid;

use crate::api::{Api, buckets};
use crate::harness::Server;

const METRICS: [&str; 3] = ["item-creation", "transfers", "user-creation"];
const RESOLUTIONS: [&str; 9] = ["millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];
const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Havana",
];
/// Moments at which the clocks change in one of the zones, within the years of the random data.
const CLOCK_CHANGES: [&str; 12] = [
    "2010-03-14T03:31:00Z", // St John's: a minute past midnight
    "2010-11-07T02:31:00Z", // St John's: back over midnight
    "2011-03-13T05:00:00Z",
    "2011-03-27T01:00:00Z", // Berlin
    "2011-10-30T01:00:00Z",
    "2011-04-02T15:00:00Z", // Lord Howe: by half an hour
    "2011-10-01T15:30:00Z",
    "2011-12-30T10:00:00Z", // Samoa: a day skipped
    "2012-04-01T05:00:00Z", // Havana: midnight skipped
    "2012-11-04T05:00:00Z", // Havana: midnight twice
    "2012-12-31T23:00:00Z",
    "2013-01-01T00:00:00Z",
];

/// What a bucket is, said another way than the server says it: from what Postgres' clocks show. Where they show a
/// midnight twice, the first one counts; `hour` also ends where the clocks change.
const RECOUNT: &str = "
create schema recount;

create function recount.first_moment(day timestamp, zone text) returns timestamptz language sql immutable
return (
    select min(t) from unnest(array[0, 30, 60, 120]) as earlier
    cross join lateral (select day at time zone zone - earlier * interval '1 minute') as x (t)
    where earlier = 0 or t at time zone zone = day
);

create function recount.ahead(zone text, moment timestamptz) returns interval language sql immutable
return (moment at time zone zone) - (moment at time zone 'UTC');

create function recount.width(unit text) returns interval language sql immutable
return case unit when 'quarter' then interval '3 months' else ('1 ' || unit)::interval end;

create function recount.start_of(unit text, zone text, moment timestamptz) returns timestamptz language sql immutable
return case
    when unit in ('millisecond', 'second', 'minute') then date_trunc(unit, moment, 'UTC')
    when unit <> 'hour' then (
        -- The clocks may have been set back over the next one's first moment.
        select max(first) from generate_series(0, 1) as n
        cross join lateral recount.first_moment(
            date_trunc(unit, moment at time zone zone) + n * recount.width(unit), zone) as first
        where first <= moment
    )
    when recount.ahead(zone, date_trunc('hour', moment, zone)) = recount.ahead(zone, moment)
        then date_trunc('hour', moment, zone)
    else (
        -- The first minute of this hour from which on the clocks have gone as they do.
        select min(m) from generate_series(date_trunc('hour', moment, zone), moment, interval '1 minute') as m
        where recount.ahead(zone, m) = recount.ahead(zone, moment)
    )
end;

create function recount.next(unit text, zone text, start timestamptz) returns timestamptz language sql immutable
return case
    when unit in ('millisecond', 'second', 'minute') then start + recount.width(unit)
    when unit = 'hour' then (
        select min(m) from generate_series(start + interval '1 minute', start + interval '1 hour', interval '1 minute') as m
        where recount.start_of(unit, zone, m) > start
    )
    else (
        -- A day may have been skipped.
        select min(first) from generate_series(1, 3) as n
        cross join lateral recount.first_moment(
            date_trunc(unit, start at time zone zone) + n * recount.width(unit), zone) as first
        where first > start
    )
end;

create view recount.events as
select 'item-creation' as metric, base_item_id, created_at as moment from items
union all select 'transfers', i.base_item_id, t.timestamp from transfers t join items i on i.id = t.item_id
union all select 'user-creation', null, created_at from users";

/// The counts of buckets and their ends, by their starts.
type Counts = BTreeMap<i64, (i64, i64)>;
/// Metric, base item (nothing for all of them), start, end and count.
type Bucket = (String, Option<Uuid>, DateTime<Utc>, DateTime<Utc>, i64);

struct World {
    server: Server,
    base_items: Vec<Uuid>,
    /// While this one holds the lock, nobody folds in the background.
    _lock: PoolConnection<Postgres>,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let pool = &server.database.pool;
        sqlx::raw_sql(RECOUNT).execute(pool).await.expect("a way to recount");
        let mut lock = pool.acquire().await.expect("a connection");
        // \"newcycle\" and \"fold\" in ASCII, as the server says it.
        sqlx::query("select pg_advisory_lock(x'6e657763'::int, x'666f6c64'::int)")
            .execute(&mut *lock)
            .await
            .expect("the lock");
        let base_items =
            sqlx::query_scalar("insert into base_items (description) values ('a'), ('b'), ('c') returning id")
                .fetch_all(pool)
                .await
                .expect("base items");
        Self { server, base_items, _lock: lock }
    }

    fn pool(&self) -> &PgPool {
        &self.server.database.pool
    }

    fn api(&self) -> &Api {
        &self.server.api
    }

    /// Inserts an item, two transfers and a user at each of the moments, in several statements.
    async fn insert(&self, moments: &[DateTime<Utc>]) {
        for moments in moments.chunks(150) {
            let mut transaction = self.pool().begin().await.expect("a transaction");
            for statement in [
                "insert into items (base_item_id, created_at)
                    select $2[1 + n % 3], moment from unnest($1) with ordinality as m (moment, n)",
                "insert into users (created_at) select unnest($1) where $2 is not null",
                "with numbered_items as (select id, row_number() over () as n from items),
                    numbered_moments as (select * from unnest($1 || $1[1:30] || $1) with ordinality as m (moment, n))
                insert into transfers (item_id, owner_id, timestamp)
                    select i.id, (select id from users limit 1), moment
                    from numbered_moments m join numbered_items i on i.n = 1 + m.n * 7 % (select count(*) from items)
                    where $2 is not null",
            ] {
                sqlx::query(statement)
                    .bind(moments)
                    .bind(&self.base_items)
                    .execute(&mut *transaction)
                    .await
                    .expect(statement);
            }
            transaction.commit().await.expect("committed");
        }
    }

    async fn scalar(&self, statement: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(self.pool()).await.expect(statement)
    }

    async fn assert_no_differences(&self) {
        assert_eq!(self.scalar("select count(*) from statistics.differences()").await, 0);
    }

    /// The counts by metric, and for all base items together and each.
    async fn recount(&self, unit: &str, zone: &str) -> BTreeMap<(String, Option<Uuid>), Counts> {
        let rows: Vec<Bucket> = sqlx::query_as(
            "with starts as materialized (
                select moment, recount.start_of($1, $2, moment) as start
                from (select distinct moment from recount.events) as moments
            ), ends as materialized (
                select start, recount.next($1, $2, start) as next from (select distinct start from starts) as s
            )
            select metric, base_item_id, start, next, count(*)
            from recount.events join starts using (moment) join ends using (start)
            group by grouping sets ((metric, start, next), (metric, base_item_id, start, next))",
        )
        .bind(unit)
        .bind(zone)
        .fetch_all(self.pool())
        .await
        .expect("a recount");
        let mut counts = BTreeMap::<_, Counts>::new();
        for (metric, base_item, start, end, count) in rows {
            let bucket = (count, end.timestamp_millis());
            counts.entry((metric, base_item)).or_default().insert(start.timestamp_millis(), bucket);
        }
        counts
    }

    /// All buckets that overlap the range.
    async fn starts(&self, unit: &str, zone: &str, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<i64> {
        let starts: Vec<DateTime<Utc>> = sqlx::query_scalar(
            "with recursive buckets (start) as (
                select recount.start_of($1, $2, $3)
                union all select recount.next($1, $2, start) from buckets where recount.next($1, $2, start) < $4
            ) select start from buckets order by start",
        )
        .bind(unit)
        .bind(zone)
        .bind(from)
        .bind(to)
        .fetch_all(self.pool())
        .await
        .expect("buckets");
        starts.iter().map(DateTime::timestamp_millis).collect()
    }

    /// What the server says, newest first.
    async fn counts(&self, path: &str) -> Vec<(i64, i64)> {
        let (status, answer) = self.api().get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        let counts: Vec<_> = answer
            .as_array()
            .expect("an array")
            .iter()
            .map(|bucket| {
                let time = moment(bucket["time"].as_str().expect("a time"));
                (time.timestamp_millis(), bucket["count"].as_i64().expect("a count"))
            })
            .collect();
        assert!(counts.is_sorted_by(|a, b| a.0 > b.0), "{path}: newest first");
        counts
    }

    /// Compares everything that the server says with a recount.
    async fn assert_exact(&self, zones: &[&str]) {
        for zone in zones {
            for unit in RESOLUTIONS {
                let recount = self.recount(unit, zone).await;
                for metric in METRICS {
                    let path = format!("/statistics/{metric}/{unit}?timezone={zone}&limit=10000");
                    let expected = newest(&recount[&(metric.to_owned(), None)], 10_000);
                    assert_eq!(self.counts(&path).await, expected, "{path}");
                    if metric == "user-creation" {
                        continue;
                    }
                    let base_item = self.base_items[1];
                    let path = format!("{path}&base_item_id={base_item}");
                    let expected = newest(&recount[&(metric.to_owned(), Some(base_item))], 10_000);
                    assert_eq!(self.counts(&path).await, expected, "{path}");
                }
            }
        }
        self.assert_no_differences().await;
    }
}

/// The newest buckets of a recount, newest first.
fn newest(counts: &Counts, limit: usize) -> Vec<(i64, i64)> {
    counts.iter().rev().take(limit).map(|(&start, &(count, _))| (start, count)).collect()
}

fn moment(text: &str) -> DateTime<Utc> {
    text.parse().expect("a moment")
}

fn chance(below: u128) -> i64 {
    i64::try_from(Uuid::new_v4().as_u128() % below).expect("small")
}

/// Moments over several years, many of them near a change of the clocks, some in the same millisecond.
fn random_moments(amount: usize) -> Vec<DateTime<Utc>> {
    let start = moment("2009-12-20T00:00:00Z");
    let mut moments: Vec<DateTime<Utc>> = Vec::new();
    while moments.len() < amount {
        moments.push(match chance(10) {
            0..3 => start + TimeDelta::microseconds(chance(3 * 366 * 86_400_000_000)),
            3..9 => {
                let change = moment(CLOCK_CHANGES[usize::try_from(chance(12)).expect("an index")]);
                let span = [1_000_000, 3_600_000_000, 90_000_000_000][usize::try_from(chance(3)).expect("an index")];
                change + TimeDelta::microseconds(chance(2 * span) - i64::try_from(span).expect("small"))
            }
            _ => moments.last().copied().unwrap_or(start) + TimeDelta::microseconds(chance(1500)),
        });
    }
    moments
}

#[tokio::test]
async fn counts_are_exact_wherever_they_are_kept() {
    let world = World::new().await;
    world.insert(&random_moments(400)).await;
    assert!(world.scalar("select count(*) from statistics.unfolded").await > 0);
    assert_eq!(world.scalar("select count(*) from statistics.rollups").await, 0);
    world.assert_exact(&ZONES[..2]).await;

    assert!(world.scalar("select statistics.fold()").await > 0);
    assert_eq!(world.scalar("select count(*) from statistics.unfolded").await, 0);
    world.insert(&random_moments(200)).await;
    assert!(world.scalar("select count(*) from statistics.unfolded").await > 0);
    world.assert_exact(&ZONES).await;

    assert!(world.scalar("select statistics.fold()").await > 0);
    assert_eq!(world.scalar("select statistics.fold()").await, 0);
    world.assert_exact(&ZONES[4..]).await;

    sqlx::query("select statistics.rebuild()").execute(world.pool()).await.expect("rebuilt");
    assert_eq!(world.scalar("select count(*) from statistics.unfolded").await, 0);
    world.assert_exact(&ZONES[2..4]).await;
}

/// By base item, between any two moments: whole days, parts of a minute, and nothing at all.
#[tokio::test]
async fn breakdowns_are_exact_wherever_counts_are_kept() {
    let world = World::new().await;
    let mut moments = random_moments(300);
    let on_the_minute = moment("2012-05-01T10:00:00Z");
    moments[0] = on_the_minute;
    world.insert(&moments).await;
    for folded in [false, true, false] {
        if folded {
            assert!(world.scalar("select statistics.fold()").await > 0);
        } else {
            world.insert(&moments[..100]).await;
        }
        let around = |before: i64, after: i64| {
            let moment = |millis: i64| Some(on_the_minute + TimeDelta::milliseconds(millis));
            (moment(-before), moment(after))
        };
        let mut ranges = vec![(None, None), around(30_000, 1), around(30_000, 0), around(0, 60_000), around(0, 1)];
        for step in 1..40 {
            let from = moments[(step * 7) % 300] - TimeDelta::milliseconds(chance(3));
            for length in [1, 59_999, 3_600_000, chance(864_000_000), chance(30_000_000_000)] {
                ranges.push((Some(from), Some(from + TimeDelta::milliseconds(length + 1))));
            }
            ranges.push((Some(from), None));
            ranges.push((None, Some(from)));
        }
        for metric in &METRICS[..2] {
            for &(from, to) in &ranges {
                let expected: Vec<(Uuid, i64)> = sqlx::query_as(
                    "select base_item_id, count(*) from statistics.events
                    where metric = $1::statistics.metric and moment >= coalesce($2, '-infinity') and moment < coalesce($3, 'infinity')
                    group by 1 order by 2 desc, 1",
                )
                .bind(metric)
                .bind(from)
                .bind(to)
                .fetch_all(world.pool())
                .await
                .expect("a recount");
                let mut path = format!("/statistics/{metric}/breakdown?limit=2");
                for (name, moment) in [("from", from), ("to", to)] {
                    if let Some(moment) = moment {
                        path += &format!("&{name}={}", moment.format("%Y-%m-%dT%H:%M:%S%.6fZ"));
                    }
                }
                let (status, answer) = world.api().get(&path).await;
                assert_eq!(status, StatusCode::OK, "{path}: {answer}");
                let named: Vec<_> = expected
                    .iter()
                    .take(2)
                    .map(|(id, count)| {
                        let index = world.base_items.iter().position(|base_item| base_item == id).expect("a base item");
                        let description = ["a", "b", "c"][index];
                        json!({"base_item_id": id, "description": description, "count": count})
                    })
                    .collect();
                let rest: i64 = expected.iter().skip(2).map(|(_, count)| count).sum();
                let expected = json!({
                    "data": named,
                    "rest": {"base_items": expected.len().saturating_sub(2), "count": rest},
                    "total": expected.iter().map(|(_, count)| count).sum::<i64>(),
                });
                assert_eq!(answer, expected, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_breakdown_that_cannot_be_made_is_refused_by_the_name_of_the_parameter() {
    let server = Server::start().await;
    for (path, parameter) in [
        ("user-creation/breakdown", "metric"),
        ("sales/breakdown", "metric"),
        ("transfers/breakdown?limit=0", "limit"),
        ("transfers/breakdown?limit=1001", "limit"),
        ("transfers/breakdown?from=2021-01-02T00:00:00Z&to=2021-01-02T00:00:00Z", "to"),
        ("transfers/breakdown?timezone=UTC", "timezone"),
    ] {
        let (status, problem) = server.api.get(&format!("/statistics/{path}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {problem}");
        assert_eq!(problem["errors"][0]["field"], parameter, "{path}: {problem}");
    }
}

/// Seconds are kept for a while; older ones are counted from the ledger. Nobody sees where the one begins.
#[tokio::test]
async fn seconds_are_exact_whether_they_are_kept_or_not() {
    let world = World::new().await;
    let aged = "select count(*) from statistics.seconds, statistics.state where bucket < seconds_from";
    // Around the moment from which seconds are kept, and some that are older or newer than it will be later.
    let around = |minutes: i64| {
        let middle = Utc::now() - TimeDelta::days(1) + TimeDelta::minutes(minutes);
        (0..60).map(move |_| middle + TimeDelta::microseconds(chance(180_000_000) - 90_000_000)).collect::<Vec<_>>()
    };
    for minutes in [0, -10, 1_430, 60] {
        world.insert(&around(minutes)).await;
    }
    world.assert_exact(&["UTC"]).await;
    world.scalar("select statistics.fold()").await;
    assert!(world.scalar("select count(*) from statistics.seconds").await > 0);
    assert_eq!(world.scalar(aged).await, 0, "what is older is not written");
    world.assert_exact(&["UTC"]).await;

    assert!(world.scalar("select statistics.prune_seconds('23 hours')").await > 0);
    assert_eq!(world.scalar(aged).await, 0);
    assert!(world.scalar("select count(*) from statistics.seconds").await > 0, "the others are kept");
    world.assert_exact(&["UTC"]).await;
    world.insert(&around(60)).await;
    world.insert(&around(1_430)).await;
    world.assert_exact(&["UTC"]).await;
    world.scalar("select statistics.fold()").await;
    world.assert_exact(&["UTC"]).await;
    // Few are wanted, so that the newest of them have to be the right ones.
    for unit in ["millisecond", "second"] {
        let recount = world.recount(unit, "UTC").await;
        for limit in [1, 2, 50, 70, 130, 200] {
            for end in ["2030-01-01T00:00:00Z".to_owned(), around(60)[0].to_rfc3339().replace("+00:00", "Z")] {
                let path = format!("/statistics/transfers/{unit}?limit={limit}&to={end}");
                let last = moment(&end).timestamp_micros();
                let expected = recount[&("transfers".to_owned(), None)]
                    .iter()
                    .rev()
                    .filter(|&(&start, _)| start * 1_000 < last)
                    .take(limit)
                    .map(|(&start, &(count, _))| (start, count))
                    .collect::<Vec<_>>();
                assert_eq!(world.counts(&path).await, expected, "{path}");
            }
        }
    }
    sqlx::query("select statistics.rebuild()").execute(world.pool()).await.expect("rebuilt");
    world.assert_exact(&["UTC"]).await;
}

#[tokio::test]
async fn aged_seconds_go_a_few_at_a_time() {
    let world = World::new().await;
    let old = "insert into statistics.seconds (metric, base_item_id, bucket, count)
        select 'user-creation', statistics.all_base_items(), now() - interval '3 days' + n * interval '1 second', 1
        from generate_series(1, 12000) n";
    sqlx::query(old).execute(world.pool()).await.expect("seconds");
    world.assert_no_differences().await;
    for expected in [10_000, 2_000, 0] {
        assert_eq!(world.scalar("select statistics.prune_seconds()").await, expected);
    }
}

/// In Liberia clocks went by the sun, 44 and a half minutes after UTC, until 1972.
#[tokio::test]
async fn days_that_begin_within_a_minute_are_exact() {
    let world = World::new().await;
    let midnight = |day: i64| moment("1960-06-01T00:44:30Z") + TimeDelta::days(day);
    let moments: Vec<_> =
        (0..100).map(|n| midnight(n % 7) + TimeDelta::milliseconds(chance(80_000) - 40_000)).collect();
    let zones = ["Africa/Monrovia"];
    world.insert(&moments[..50]).await;
    world.assert_exact(&zones).await;
    world.scalar("select statistics.fold()").await;
    world.assert_exact(&zones).await;
    world.insert(&moments[50..]).await;
    world.assert_exact(&zones).await;
}

#[tokio::test]
async fn ranges_are_of_whole_buckets_and_gaps_can_be_filled() {
    let world = World::new().await;
    world.insert(&random_moments(300)).await;
    world.scalar("select statistics.fold()").await;
    world.insert(&random_moments(100)).await;
    // A span that has a few dozen buckets of the unit.
    let spans = [
        ("millisecond", TimeDelta::milliseconds(40)),
        ("second", TimeDelta::seconds(40)),
        ("minute", TimeDelta::minutes(40)),
        ("hour", TimeDelta::hours(40)),
        ("day", TimeDelta::days(40)),
        ("week", TimeDelta::days(300)),
        ("month", TimeDelta::days(1000)),
        ("quarter", TimeDelta::days(1000)),
        ("year", TimeDelta::days(1500)),
    ];
    for zone in ZONES {
        for (unit, span) in spans {
            let recount = world.recount(unit, zone).await;
            let counts = &recount[&("transfers".to_owned(), None)];
            for _ in 0..2 {
                let change = moment(CLOCK_CHANGES[usize::try_from(chance(12)).expect("an index")]);
                let part = |span: TimeDelta| {
                    TimeDelta::microseconds(chance(span.num_microseconds().expect("short").unsigned_abs().into()))
                };
                let (from, to) = (change - part(span), change + part(span) + TimeDelta::milliseconds(1));
                let overlapping: Counts = counts
                    .iter()
                    .filter(|(start, (_, end))| {
                        **start * 1000 < to.timestamp_micros() && *end > from.timestamp_millis()
                    })
                    .map(|(start, bucket)| (*start, *bucket))
                    .collect();
                let text = |moment: DateTime<Utc>| moment.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
                let (from_text, to_text) = (text(from), text(to));
                let path = format!("/statistics/transfers/{unit}?timezone={zone}&from={from_text}&to={to_text}");
                assert_eq!(world.counts(&path).await, newest(&overlapping, 1000), "{path}");
                for limit in [1, 2, 5] {
                    let path = format!("{path}&limit={limit}");
                    assert_eq!(world.counts(&path).await, newest(&overlapping, limit), "{path}");
                }
                let filled: Counts = world
                    .starts(unit, zone, from, to)
                    .await
                    .into_iter()
                    .map(|start| (start, overlapping.get(&start).copied().unwrap_or_default()))
                    .collect();
                for limit in [1, 7, 1000] {
                    let path = format!("{path}&fill=zero&limit={limit}");
                    assert_eq!(world.counts(&path).await, newest(&filled, limit), "{path}");
                }
            }
            // Half a range.
            let middle = moment("2011-06-15T12:34:56.789Z");
            let before: Counts =
                counts.range(..=middle.timestamp_millis()).map(|(start, bucket)| (*start, *bucket)).collect();
            let path = format!("/statistics/transfers/{unit}?timezone={zone}&to=2011-06-15T12:34:56.7891Z&limit=10000");
            assert_eq!(world.counts(&path).await, newest(&before, 10_000), "{path}");
            let after: Counts = counts
                .iter()
                .filter(|(_, (_, end))| *end > middle.timestamp_millis())
                .map(|(start, bucket)| (*start, *bucket))
                .collect();
            let path =
                format!("/statistics/transfers/{unit}?timezone={zone}&from=2011-06-15T12:34:56.789Z&limit=10000");
            assert_eq!(world.counts(&path).await, newest(&after, 10_000), "{path}");
        }
    }
}

#[tokio::test]
async fn days_have_as_many_hours_as_their_clocks_show() {
    let world = World::new().await;
    let days = [
        ("Europe/Berlin", "2021-03-27T23:00:00Z", 46),
        ("Europe/Berlin", "2021-10-30T22:00:00Z", 50),
        ("Australia/Lord_Howe", "2020-10-03T13:30:00Z", 47),
        ("Australia/Lord_Howe", "2021-04-03T13:00:00Z", 49),
        ("America/Havana", "2021-03-14T05:00:00Z", 46),
        ("America/Havana", "2021-11-07T04:00:00Z", 50),
        ("America/St_Johns", "2010-03-14T03:30:00Z", 46),
        ("America/St_Johns", "2010-11-07T02:30:00Z", 50),
        ("Asia/Kolkata", "2021-05-31T18:30:00Z", 48),
        ("Pacific/Apia", "2011-12-29T10:00:00Z", 48),
    ];
    for (_, start, halves) in days {
        let (start, end) = (moment(start), moment(start) + TimeDelta::minutes(30 * halves));
        // One in every half hour, and one on either side.
        sqlx::query("insert into users (created_at) select generate_series($1, $2, interval '30 minutes')")
            .bind(start - TimeDelta::minutes(30))
            .bind(end)
            .execute(world.pool())
            .await
            .expect("users");
    }
    for folded in [false, true] {
        for (zone, start, halves) in days {
            let start = moment(start);
            let end = start + TimeDelta::minutes(30 * halves);
            let range = |from: DateTime<Utc>, to: DateTime<Utc>| {
                let text = |moment: DateTime<Utc>| moment.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
                format!("timezone={zone}&from={}&to={}", text(from), text(to))
            };
            // Any range within the day shows the whole day.
            let within = range(start + TimeDelta::hours(5), start + TimeDelta::hours(6));
            let counts = world.counts(&format!("/statistics/user-creation/day?{within}")).await;
            assert_eq!(counts, [(start.timestamp_millis(), halves)], "{zone} {start}, folded: {folded}");
            // Its hours have all of them, whether they are of sixty minutes or thirty.
            let hours = world.counts(&format!("/statistics/user-creation/hour?{}", range(start, end))).await;
            assert_eq!(hours.iter().map(|(_, count)| count).sum::<i64>(), halves, "{zone}: {hours:?}");
            assert!(hours.iter().all(|(_, count)| (1..=2).contains(count)), "{zone}: {hours:?}");
            let overlapping = range(start - TimeDelta::milliseconds(1), end + TimeDelta::seconds(1));
            assert_eq!(world.counts(&format!("/statistics/user-creation/day?{overlapping}&fill=zero")).await.len(), 3);
        }
        world.scalar("select statistics.fold()").await;
    }
    // Samoa had no 30 December 2011: the 29th is followed by the 31st.
    let path = "/statistics/user-creation/day?timezone=Pacific/Apia&fill=zero&from=2011-12-29T10:00:00Z&to=2011-12-31T10:00:00Z";
    let starts: Vec<_> = world.counts(path).await.into_iter().map(|(start, _)| start).collect();
    let expected = ["2011-12-30T10:00:00Z", "2011-12-29T10:00:00Z"].map(|start| moment(start).timestamp_millis());
    assert_eq!(starts, expected);
}

#[tokio::test]
async fn weeks_begin_on_monday() {
    let server = Server::start().await;
    for created_at in
        ["2021-01-03T23:59:59.999999Z", "2021-01-04T00:00:00Z", "2021-01-10T23:59:59Z", "2021-01-11T00:00:00Z"]
    {
        server.api.create("/users", json!({"created_at": created_at})).await;
    }
    let (_, counts) = server.api.get("/statistics/user-creation/week").await;
    let expected = json!([
        {"time": "2021-01-11T00:00:00Z", "count": 1},
        {"time": "2021-01-04T00:00:00Z", "count": 2},
        {"time": "2020-12-28T00:00:00Z", "count": 1},
    ]);
    assert_eq!(counts, expected);
    let (_, counts) = server.api.get("/statistics/user-creation/millisecond?limit=2").await;
    let expected =
        json!([{"time": "2021-01-11T00:00:00.000Z", "count": 1}, {"time": "2021-01-10T23:59:59.000Z", "count": 1}]);
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn a_filled_answer_without_an_end_reaches_to_the_present() {
    let server = Server::start().await;
    let path = "/statistics/user-creation/year?fill=zero";
    assert_eq!(server.api.get(path).await.1, json!([]), "nothing happened, and nobody said since when");
    server.api.create("/users", json!({"created_at": "2015-06-01T00:00:00Z"})).await;
    let count = async |path: &str| buckets(&server.api.get(path).await.1);
    let year = Utc::now().year();
    let since_2015 = count(path).await;
    assert_eq!(since_2015.len(), usize::try_from(year - 2015 + 1).expect("later"));
    assert_eq!((since_2015["2015-01-01T00:00:00Z"], since_2015["2016-01-01T00:00:00Z"]), (1, 0));
    let last_two = count(&format!("{path}&limit=2")).await;
    let expected = [year - 1, year].map(|year| (format!("{year}-01-01T00:00:00Z"), 0));
    assert_eq!(last_two, BTreeMap::from(expected));
    let since_2012 = count(&format!("{path}&from=2012-12-31T23:59:59Z")).await;
    assert_eq!(since_2012.len(), usize::try_from(year - 2012 + 1).expect("later"));
    let until_2013 = count(&format!("{path}&from=2012-12-31T23:59:59Z&to=2013-01-01T00:00:01Z")).await;
    assert_eq!(until_2013.into_values().collect::<Vec<_>>(), [0, 0]);
}

/// Servers fold in the background all the while.
#[tokio::test]
async fn every_answer_counts_what_was_written_before_it() {
    let server = Server::start().await;
    let second = Server::on(&server.name).await;
    let base_item = server.api.base_item().await;
    for written in 1..=60 {
        let writer = if written % 3 == 0 { &second.api } else { &server.api };
        writer.create("/items", json!({"base_item_id": base_item, "created_at": "2021-01-01T00:00:00Z"})).await;
        for path in ["day", "second", "millisecond", "month?timezone=Asia/Kolkata"] {
            let reader = if written % 2 == 0 { &second.api } else { &server.api };
            let (_, counts) = reader.get(&format!("/statistics/item-creation/{path}")).await;
            assert_eq!(buckets(&counts).into_values().collect::<Vec<_>>(), [written], "{path}");
        }
        assert_eq!(server.differences().await, 0);
    }
}

#[tokio::test]
async fn what_is_rolled_back_was_never_counted() {
    let world = World::new().await;
    let mut transaction = world.pool().begin().await.expect("a transaction");
    sqlx::query("insert into users (created_at) select '2021-01-01T00:00:00Z' from generate_series(1, 100)")
        .execute(&mut *transaction)
        .await
        .expect("users");
    let path = "/statistics/user-creation/year";
    assert_eq!(world.counts(path).await, []);
    assert_eq!(world.scalar("select statistics.fold()").await, 0, "what is not committed is not folded");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(world.scalar("select statistics.fold()").await, 0);
    assert_eq!(world.counts(path).await, []);
    world.assert_no_differences().await;
}

/// The transaction's id lies within the snapshot of the fold, but was under way then.
#[tokio::test]
async fn what_was_under_way_during_a_fold_is_counted_once_it_is_committed() {
    let world = World::new().await;
    let insert = "insert into users (created_at) values ('2021-01-01T00:00:00Z')";
    let mut early = world.pool().begin().await.expect("a transaction");
    sqlx::query(insert).execute(&mut *early).await.expect("a user");
    sqlx::query(insert).execute(world.pool()).await.expect("a user of a later transaction, committed earlier");
    assert_eq!(world.scalar("select statistics.fold()").await, 1);
    let path = "/statistics/user-creation/year";
    let year = moment("2021-01-01T00:00:00Z").timestamp_millis();
    assert_eq!(world.counts(path).await, [(year, 1)]);
    early.commit().await.expect("committed");
    assert_eq!(world.counts(path).await, [(year, 2)]);
    assert_eq!(world.scalar("select statistics.fold()").await, 1);
    assert_eq!(world.counts(path).await, [(year, 2)]);
    world.assert_no_differences().await;
}

#[tokio::test]
async fn statistics_that_were_spoiled_are_found_out_and_mended() {
    let world = World::new().await;
    world.insert(&random_moments(50)).await;
    world.scalar("select statistics.fold()").await;
    for spoil in [
        "update statistics.rollups set count = count + 1 where width = 'hour' and metric = 'transfers'",
        "delete from statistics.rollups where width = 'day'",
        "insert into statistics.deltas (metric, base_item_id, bucket, count)
            values ('user-creation', statistics.all_base_items(), '2021-01-01T00:00:00Z', 3)",
        "begin; alter table users disable trigger count; insert into users default values;
            alter table users enable trigger count; commit",
    ] {
        world.assert_no_differences().await;
        sqlx::raw_sql(spoil).execute(world.pool()).await.expect(spoil);
        assert!(world.scalar("select count(*) from statistics.differences()").await > 0, "{spoil}");
        sqlx::query("select statistics.rebuild()").execute(world.pool()).await.expect("rebuilt");
    }
    world.assert_exact(&["Europe/Berlin"]).await;
}

#[tokio::test]
async fn questions_that_cannot_be_answered_are_refused_by_the_name_of_the_parameter() {
    let server = Server::start().await;
    let base_item = server.api.base_item().await;
    let unknown = Uuid::new_v4();
    for (path, parameter) in [
        ("sales/day".to_owned(), "metric"),
        ("Transfers/day".to_owned(), "metric"),
        ("transfers/fortnight".to_owned(), "resolution"),
        ("transfers/Day".to_owned(), "resolution"),
        ("transfers/day?timezone=Mars/Olympus".to_owned(), "timezone"),
        ("transfers/day?timezone=".to_owned(), "timezone"),
        ("transfers/second?timezone=%2B02:00".to_owned(), "timezone"),
        ("transfers/day?from=yesterday".to_owned(), "from"),
        ("transfers/day?from=2021-01-01".to_owned(), "from"),
        ("transfers/day?to=2021-01-01T00:00:00".to_owned(), "to"),
        ("transfers/day?from=-262143-01-01T00:00:00Z".to_owned(), "from"),
        ("transfers/week?to=%2B262142-12-31T23:59:59Z".to_owned(), "to"),
        ("transfers/day?from=2021-01-02T00:00:00Z&to=2021-01-01T00:00:00Z".to_owned(), "to"),
        ("transfers/day?from=2021-01-02T00:00:00Z&to=2021-01-02T00:00:00Z".to_owned(), "to"),
        ("transfers/year?from=2021-01-02T00:00:00Z&to=2021-01-02T00:00:00Z".to_owned(), "to"),
        ("transfers/year?from=2021-01-02T00:00:00Z&to=2021-01-01T00:00:00Z".to_owned(), "to"),
        ("transfers/day?base_item_id=lamp".to_owned(), "base_item_id"),
        (format!("transfers/day?base_item_id={unknown}"), "base_item_id"),
        (format!("transfers/day?base_item_id={}", Uuid::nil()), "base_item_id"),
        (format!("user-creation/day?base_item_id={base_item}"), "base_item_id"),
        ("transfers/day?limit=0".to_owned(), "limit"),
        ("transfers/day?limit=10001".to_owned(), "limit"),
        ("transfers/day?limit=-1".to_owned(), "limit"),
        ("transfers/day?limit=many".to_owned(), "limit"),
        ("transfers/day?fill=one".to_owned(), "fill"),
        ("transfers/day?colour=red".to_owned(), "colour"),
    ] {
        for accept in ["application/json", "text/event-stream"] {
            let request = server.api.request(Method::GET, &format!("/statistics/{path}")).header("accept", accept);
            let response = request.send().await.expect("an answer");
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
            let (status, problem) = (response.status(), response.json::<Value>().await.expect("JSON"));
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {problem}");
            assert_eq!(problem["errors"][0]["field"], parameter, "{path}: {problem}");
        }
    }
}

#[tokio::test]
async fn the_first_and_the_last_moment_that_can_be_spoken_of_are_no_special_case() {
    let server = Server::start().await;
    server.api.create("/users", json!({"created_at": "0001-01-01T00:00:00Z"})).await;
    for zone in ZONES.iter().chain(&["Pacific/Kiritimati", "Etc/GMT%2B12"]) {
        for unit in RESOLUTIONS {
            for range in [
                "",
                "&from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59.999999Z",
                "&from=0001-01-01T00:00:00Z&to=0001-01-01T00:00:00.000001Z",
            ] {
                let path = format!("/statistics/user-creation/{unit}?timezone={zone}{range}");
                let (status, counts) = server.api.get(&path).await;
                assert_eq!(status, StatusCode::OK, "{path}: {counts}");
                assert_eq!(buckets(&counts).into_values().collect::<Vec<_>>(), [1], "{path}");
            }
            let path =
                format!("/statistics/user-creation/{unit}?timezone={zone}&fill=zero&limit=3&to=9999-12-31T23:59:59Z");
            let (status, counts) = server.api.get(&path).await;
            assert_eq!(status, StatusCode::OK, "{path}: {counts}");
            assert_eq!(buckets(&counts).into_values().collect::<Vec<_>>(), [0; 3], "{path}");
        }
    }
}

#[tokio::test]
async fn an_event_source_gets_the_array_at_once_and_after_every_change() {
    let server = Server::start().await;
    let api = &server.api;
    let base_item = api.base_item().await;
    let (item, user) = (api.item(&base_item).await, api.user().await);
    for path in [
        "/statistics/transfers/minute".to_owned(),
        "/statistics/transfers/day?timezone=Asia/Kolkata&limit=2&fill=zero".to_owned(),
        format!("/statistics/transfers/millisecond?base_item_id={base_item}&from=2021-01-01T00:00:00Z"),
    ] {
        let mut events = api.stream(&path, None).await;
        let first = events.next_named("").await;
        assert_eq!(first.data, api.get(&path).await.1, "{path}");
        for _ in 0..3 {
            api.create("/transfers", json!({"item_id": item, "owner_id": user})).await;
            let expected = api.get(&path).await.1;
            assert_eq!(events.next_named("").await.data, expected, "{path}");
        }
        // What lies elsewhere changes nothing here, so the next message is about what comes after it.
        api.create("/users", json!({})).await;
        api.create("/transfers", json!({"item_id": item, "owner_id": user})).await;
        assert_eq!(events.next_named("").await.data, api.get(&path).await.1, "{path}");
    }
}
