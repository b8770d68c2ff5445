//! The queue of jobs: who lost a lease cannot write any more.

use newcycle::jobs::{self, Kind, LeaseError};
use uuid::Uuid;

use crate::harness::database;

#[tokio::test]
async fn a_later_attempt_ends_every_right_of_the_one_before() {
    let database = database().await;
    let pool = &database.pool;
    let mut connection = pool.acquire().await.expect("a connection");
    let id = Uuid::new_v4();
    jobs::enqueue(&mut connection, id, Kind::Export).await.expect("a job");
    let first = jobs::take(pool, Kind::Export).await.expect("an answer").expect("a lease");
    assert_eq!((first.id, first.attempt), (id, 1));
    assert_eq!(jobs::take(pool, Kind::Export).await.expect("an answer"), None, "one at a time");
    first.hold(&mut connection).await.expect("it is held");
    first.renew(&mut connection).await.expect("it is renewed");

    sqlx::query("update jobs.queue set due_at = now()").execute(pool).await.expect("the lease ends");
    let second = jobs::take(pool, Kind::Export).await.expect("an answer").expect("a lease");
    assert_eq!((second.id, second.attempt), (id, 2));
    let pause = std::time::Duration::ZERO;
    for (verb, outcome) in [
        ("hold", first.hold(&mut connection).await),
        ("renew", first.renew(&mut connection).await),
        ("release", first.release(&mut connection, pause).await),
        ("finish", first.finish(&mut connection).await),
    ] {
        assert!(matches!(outcome, Err(LeaseError::Lost)), "{verb}: {outcome:?}");
    }
    second.hold(&mut connection).await.expect("it is held");
    second.finish(&mut connection).await.expect("it ends");
    assert!(matches!(second.finish(&mut connection).await, Err(LeaseError::Lost)), "once");
    assert_eq!(jobs::take(pool, Kind::Export).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_lease_that_was_given_back_is_over() {
    let database = database().await;
    let pool = &database.pool;
    let mut connection = pool.acquire().await.expect("a connection");
    let id = Uuid::new_v4();
    jobs::enqueue_idle(&mut connection, id, Kind::Stream).await.expect("a job");
    assert_eq!(jobs::take(pool, Kind::Stream).await.expect("an answer"), None, "it is not due");
    jobs::put_off(&mut connection, id, Some(chrono::Utc::now() - chrono::TimeDelta::minutes(1)))
        .await
        .expect("it is due");
    let lease = jobs::take(pool, Kind::Stream).await.expect("an answer").expect("a lease");
    lease.put_off(&mut connection, None).await.expect("it is given back");
    // As one does that was on its way.
    assert!(matches!(lease.renew(&mut connection).await, Err(LeaseError::Lost)));
    assert!(matches!(lease.hold(&mut connection).await, Err(LeaseError::Lost)));
    assert_eq!(jobs::take(pool, Kind::Stream).await.expect("an answer"), None, "it is not due");
}
