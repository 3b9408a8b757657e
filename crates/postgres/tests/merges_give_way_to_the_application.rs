//! A merge waits for the application's locks only briefly, tries again, and says so if in vain.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::time::Duration;

use anabranch_crdt::{ColumnId, Value};
use anabranch_store::{MergeOutcome, Store as _, StoreError};
use common::{Fixture, client, delta, future_stamp, key, upload, write};

const DDL: &str = "
    create table n (id int primary key, v int, w int);
    insert into n select i, 0, 0 from generate_series(1, 50) i;";

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_is_merged_when_it_is_free() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("n").await;
    let mut log = fixture.follow().await;
    let application = client(&fixture.url).await;
    application
        .batch_execute("begin; update n set w = 1 where id = 7")
        .await
        .unwrap();
    let at = future_stamp(1, 60_000);
    let made = upload(
        1,
        1,
        at,
        vec![delta(&table, key(7), write(at, &[(2, Value::Integer(5))]))],
    );
    let merging = fixture.store.merge(vec![made]);
    let committing = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        application.batch_execute("commit").await.unwrap();
    };
    let (outcomes, ()) = tokio::join!(merging, committing);
    assert_eq!(outcomes.unwrap(), [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(7));
    assert_eq!(row.value(ColumnId(2)), Some(&Value::Integer(5)));
    assert_eq!(row.value(ColumnId(3)), Some(&Value::Integer(1)));
    assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_stays_locked_makes_the_store_unavailable() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("n").await;
    let application = client(&fixture.url).await;
    application
        .batch_execute("begin; update n set w = 1 where id = 7")
        .await
        .unwrap();
    let at = future_stamp(1, 0);
    let row = |id, seq| {
        upload(
            1,
            seq,
            at,
            vec![delta(&table, key(id), write(at, &[(2, Value::Integer(5))]))],
        )
    };
    let error = fixture.store.merge(vec![row(7, 1)]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(why) if why.contains("locked")),
        "{error:?}"
    );
    // The store itself goes on.
    let other = upload(2, 1, at, row(8, 1).transaction.deltas);
    assert_eq!(fixture.merge(vec![other]).await, [MergeOutcome::Merged]);
    application.batch_execute("rollback").await.unwrap();
    assert_eq!(fixture.merge(vec![row(7, 1)]).await, [MergeOutcome::Merged]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_never_loses_a_deadlock_to_a_merge() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("n").await;
    let url = fixture.url.clone();
    // It takes rows in the opposite order, one statement at a time.
    let application = tokio::spawn(async move {
        let sql = client(&url).await;
        for round in 0..40 {
            let (high, low) = (50 - round % 10, 1 + round % 10);
            let transaction = format!(
                "begin; update n set w = {round} where id = {high}; select pg_sleep(0.005);
                 update n set w = {round} where id = {low}; commit"
            );
            sql.batch_execute(&transaction).await.unwrap();
        }
    });
    for seq in 1..=30 {
        let at = future_stamp(1, 0);
        let deltas = (1..=50)
            .map(|id| {
                let value = i64::try_from(seq).unwrap();
                delta(&table, key(id), write(at, &[(2, Value::Integer(value))]))
            })
            .collect();
        assert_eq!(
            fixture.merge(vec![upload(1, seq, at, deltas)]).await,
            [MergeOutcome::Merged]
        );
    }
    application.await.unwrap();
    let sums = fixture
        .one("select min(v) || ' ' || max(w) from n")
        .await
        .unwrap();
    assert_eq!(sums, "30 39");
}
