//! A child that comes into its table while its parent is removed brings the parent back, and its
//! parents: in Postgres as in the embedded store.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{Hlc, Millis, ReplicaId, RowKey, Value};
use anabranch_protocol::{RejectCode, Seq};
use anabranch_shape::{
    rules::{Rules, TableRules},
    schema::ReferencePolicy,
};
use anabranch_store::{MergeOutcome, Store as _, Upload};
use common::{Fixture, delta, future_stamp, key, rejection, removal, replica, text, upload, write};

const DDL: &str = "
    create table area (name text primary key);
    create table team (id int primary key, area text references area, title text not null);
    create table item (
        id int primary key, team int not null references team on delete cascade, v int);
    create table node (id int primary key, up int references node on delete cascade);
    insert into area values ('north');
    insert into team values (1, 'north', 'one'), (2, 'north', 'two');
    insert into item values (10, 1, 0), (20, 2, 0);";

/// An update of `item` 10 that does not write its team.
async fn update(fixture: &Fixture, seq: u64) -> Upload {
    let at = future_stamp(1, 5000 + seq);
    let item = fixture.table("item").await;
    let state = write(at, &[(3, Value::Integer(7))]);
    upload(1, seq, at, vec![delta(&item, key(10), state)])
}

async fn left(fixture: &Fixture) -> String {
    let sql = "select string_agg(row, ' ' order by row) from (
        select 'area ' || name as row from area
        union all select 'team ' || id || ' in ' || coalesce(area, 'none') || ' ' || title from team
        union all select 'item ' || id || ' of ' || team || ' ' || v from item) rows";
    fixture.one(sql).await.unwrap_or_default()
}

async fn refuse(fixture: &Fixture, sent: Upload) {
    let outcomes = fixture.merge(vec![sent]).await;
    assert_eq!(rejection(&outcomes[0]).code, RejectCode::Constraint);
}

#[tokio::test]
async fn a_child_that_an_update_brings_back_brings_its_parents_whole() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    fixture.run("delete from team; delete from area").await;
    assert_eq!(left(&fixture).await, "");
    log.catch_up(&fixture.sql).await;
    log.heard();
    let sent = update(&fixture, 1).await;
    assert_eq!(fixture.merge(vec![sent]).await, [MergeOutcome::Merged]);
    let expected = "area north item 10 of 1 7 team 1 in north one";
    assert_eq!(left(&fixture).await, expected);
    // It is one transaction, in which the parents' return is the server's.
    log.catch_up(&fixture.sql).await;
    let heard = log.heard();
    let own = |origins: &[_]| origins == [(replica(1), Seq(1))];
    let told = heard.iter().find(|told| own(&told.origins)).unwrap();
    let rows = [("team", key(1)), ("area", RowKey(vec![text("north")]))];
    for (name, row) in rows {
        let table = fixture.table(name).await;
        let mut told = told.deltas.iter();
        let told = told.find(|delta| delta.table == table.id && delta.key == row);
        let existence = told.unwrap().state.existence();
        assert!(existence.is_present());
        let mut entries = existence.entries().iter();
        assert!(entries.all(|entry| entry.stamp.replica == ReplicaId::SERVER));
        assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);
    }
    let buried = "select count(*)::text from anabranch.tombstones";
    assert_eq!(
        fixture.one(buried).await.unwrap(),
        "2",
        "team 2 and its item"
    );
}

#[tokio::test]
async fn a_child_that_moves_to_a_removed_parent_brings_it_back() {
    let fixture = Fixture::new(DDL).await;
    fixture.run("delete from team where id = 2").await;
    let item = fixture.table("item").await;
    let at = future_stamp(1, 5000);
    let moved = delta(&item, key(10), write(at, &[(2, Value::Integer(2))]));
    let outcomes = fixture.merge(vec![upload(1, 1, at, vec![moved])]).await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    let expected = "area north item 10 of 2 0 team 1 in north one team 2 in north two";
    assert_eq!(left(&fixture).await, expected);
}

#[tokio::test]
async fn a_parent_that_a_replica_removes_in_the_same_batch_stays() {
    let fixture = Fixture::new(DDL).await;
    let (team, item) = (fixture.table("team").await, fixture.table("item").await);
    fixture.run("delete from item where id = 10").await;
    let existence = |rows: &std::collections::BTreeMap<RowKey, anabranch_crdt::RowState>| {
        rows[&key(1)].existence().clone()
    };
    let seen = existence(&fixture.snapshot(&team).await.1);
    let at = future_stamp(2, 1000);
    let gone = upload(2, 1, at, vec![delta(&team, key(1), removal(&seen))]);
    let back = update(&fixture, 1).await;
    assert_eq!(back.transaction.deltas[0].table, item.id);
    let outcomes = fixture.merge(vec![gone, back]).await;
    assert_eq!(outcomes, [MergeOutcome::Merged, MergeOutcome::Merged]);
    let expected =
        "area north item 10 of 1 7 item 20 of 2 0 team 1 in north one team 2 in north two";
    assert_eq!(left(&fixture).await, expected);
}

#[tokio::test]
async fn a_parent_that_nobody_knows_any_more_is_a_reference_to_nothing() {
    let fixture = Fixture::new(DDL).await;
    let item = fixture.table("item").await;
    let at = future_stamp(2, 1000);
    let orphan = write(at, &[(2, Value::Integer(77))]);
    let sent = upload(2, 1, at, vec![delta(&item, key(30), orphan)]);
    refuse(&fixture, sent).await;

    fixture
        .run(
            "delete from team where id = 1;
             update anabranch.tombstones set buried = buried - interval '2 days'
             where table_id = (select table_id from anabranch.tables where name = 'team');
             update anabranch.clocks set newest = 0, server = null, server_live = null
             where table_id = (select table_id from anabranch.tables where name = 'team');",
        )
        .await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let yesterday = u64::try_from(now.unwrap().as_millis()).unwrap() - 24 * 60 * 60 * 1000;
    let horizon = Hlc::new(Millis(yesterday), 0).unwrap();
    assert_eq!(fixture.store.forget_removed(horizon).await.unwrap(), 1);
    let sent = update(&fixture, 1).await;
    refuse(&fixture, sent).await;
    let expected = "area north item 20 of 2 0 team 2 in north two";
    assert_eq!(left(&fixture).await, expected);
}

#[tokio::test]
async fn a_parent_that_goes_with_its_own_stays_away() {
    let ddl = DDL.replace("references area", "references area on delete cascade");
    let team = TableRules::new().reference("area", ReferencePolicy::Cascade);
    let fixture = Fixture::with_rules(&ddl, &Rules::new().table("team", team)).await;
    fixture.run("delete from area").await;
    let sent = update(&fixture, 1).await;
    refuse(&fixture, sent).await;
    assert_eq!(left(&fixture).await, "");
}

#[tokio::test]
async fn a_parent_that_outlives_its_own_comes_back_without_it() {
    let ddl = DDL.replace("references area", "references area on delete set null");
    let team = TableRules::new().reference("area", ReferencePolicy::SetNull);
    let fixture = Fixture::with_rules(&ddl, &Rules::new().table("team", team)).await;
    fixture.run("delete from team; delete from area").await;
    let sent = update(&fixture, 1).await;
    assert_eq!(fixture.merge(vec![sent]).await, [MergeOutcome::Merged]);
    assert_eq!(left(&fixture).await, "item 10 of 1 7 team 1 in none one");
}

#[tokio::test]
async fn a_tree_comes_back_to_a_depth() {
    let fixture = Fixture::new(DDL).await;
    let node = fixture.table("node").await;
    let depth = i64::from(anabranch_postgres::limits::REVIVED_GENERATIONS_MAX);
    fixture
        .run(&format!(
            "insert into node select id, nullif(id - 1, -1) from generate_series(0, {}) id;
             delete from node where id = 0",
            depth + 1
        ))
        .await;
    let at = future_stamp(1, 5000);
    let leaf = |seq, id| upload(1, seq, at, vec![delta(&node, key(id), write(at, &[]))]);
    refuse(&fixture, leaf(1, depth + 1)).await;
    let outcomes = fixture.merge(vec![leaf(2, depth)]).await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    let count = fixture.one("select count(*)::text from node").await;
    assert_eq!(count.unwrap(), (depth + 1).to_string());
}
