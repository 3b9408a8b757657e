//! Rows removed before the horizon are forgotten in Postgres too, whoever removed them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{Hlc, Millis, Value};
use anabranch_protocol::{Inserts, RejectCode, Seq};
use anabranch_store::{MergeOutcome, Store as _, Upload};
use common::{Fixture, delta, future_stamp, key, replica, text, upload, write};

const DDL: &str = "
    create table note (id int primary key, title text, body text);
    insert into note select i, 'title', 'body' from generate_series(1, 5) i;";

fn in_an_hour() -> Hlc {
    future_stamp(1, 3_600_000).hlc
}

fn as_update(mut made: Upload) -> Upload {
    made.transaction.inserts = Inserts::default();
    made
}

async fn counted(fixture: &Fixture, table: &str) -> String {
    let sql = format!("select count(*)::text from anabranch.{table}");
    fixture.one(&sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sql_and_replicas_removed_is_forgotten_and_not_brought_back_in_part() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("note").await;
    let mut log = fixture.follow().await;
    let sql = &fixture.sql;
    sql.batch_execute("delete from note where id in (1, 2)")
        .await
        .unwrap();
    log.catch_up(sql).await;
    assert_eq!(counted(&fixture, "tombstones").await, "2");

    let past = Hlc::new(Millis(1_000), 0).unwrap();
    assert_eq!(fixture.store.forget_removed(past).await.unwrap(), 0);
    let horizon = in_an_hour();
    assert_eq!(fixture.store.forget_removed(horizon).await.unwrap(), 2);
    assert_eq!(counted(&fixture, "tombstones").await, "0");
    assert_eq!(counted(&fixture, "clocks").await, "0");
    let standing = fixture.store.greet(replica(1), Seq(1)).await.unwrap();
    assert_eq!(standing.horizon, horizon);

    // An update of a forgotten row, beside one of a row that is there.
    let late = future_stamp(1, 0);
    let of = |id| vec![delta(&table, key(id), write(late, &[(2, text("late"))]))];
    let outcomes = fixture
        .merge(vec![
            as_update(upload(1, 1, late, of(1))),
            as_update(upload(1, 2, late, of(3))),
        ])
        .await;
    let MergeOutcome::Rejected(rejection) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(rejection.code, RejectCode::Stale);
    assert_eq!(outcomes[1], MergeOutcome::Merged);
    log.catch_up(sql).await;
    assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);
    assert_eq!(log.present(&table).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_row_can_be_inserted_again_by_anybody() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("note").await;
    let sql = &fixture.sql;
    sql.batch_execute("delete from note where id in (1, 2)")
        .await
        .unwrap();
    let horizon = future_stamp(1, 1_000).hlc;
    assert_eq!(fixture.store.forget_removed(horizon).await.unwrap(), 2);
    let mut log = fixture.follow().await;

    let cells: [(u16, Value); 2] = [(2, text("again")), (3, text("anew"))];
    let too_old = future_stamp(1, 0);
    let new = future_stamp(1, 60_000);
    let of = |at| vec![delta(&table, key(1), write(at, &cells))];
    let outcomes = fixture
        .merge(vec![
            upload(1, 1, too_old, of(too_old)),
            upload(1, 2, new, of(new)),
        ])
        .await;
    assert!(matches!(&outcomes[0], MergeOutcome::Rejected(why) if why.code == RejectCode::Stale));
    assert_eq!(outcomes[1], MergeOutcome::Merged);
    sql.batch_execute("insert into note values (2, 'by', 'sql')")
        .await
        .unwrap();
    log.catch_up(sql).await;
    assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);
    assert_eq!(log.present(&table).len(), 5);
}
