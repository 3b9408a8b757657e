//! What becomes of children whose parent was deleted by somebody who did not know of them: in Postgres
//! as in the embedded store.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{RowKey, RowState, Value};
use anabranch_postgres::{TableSelection, install_with};
use anabranch_shape::{
    rules::{Rules, TableRules},
    schema::{ReferencePolicy, Table},
};
use anabranch_store::{MergeOutcome, Upload};
use common::{Fixture, delta, fresh_database, key, removal, stamp, upload, write};

const DDL: &str = "
    create table project (id int primary key, name text);
    create table task (id int primary key, project int references project on delete cascade);
    create table step (id int primary key, task int not null references task on delete cascade);
    create table note (id int primary key, project int references project on delete set null);
    insert into project values (1, 'one'), (2, 'two');
    insert into task values (10, 1); insert into step values (100, 10);
    insert into note values (20, 1);";

fn rules() -> Rules {
    let cascade = |column| TableRules::new().reference(column, ReferencePolicy::Cascade);
    let note = TableRules::new().reference("project", ReferencePolicy::SetNull);
    Rules::new()
        .table("task", cascade("project"))
        .table("step", cascade("task"))
        .table("note", note)
}

fn child(replica: u8, ms: u64, parent: i64) -> RowState {
    write(stamp(replica, ms), &[(2, Value::Integer(parent))])
}

/// A transaction of one row.
fn one(replica: u8, seq: u64, table: &Table, id: i64, state: RowState) -> Upload {
    let at = stamp(replica, 1000 + seq);
    upload(replica, seq, at, vec![delta(table, key(id), state)])
}

struct Tables {
    project: Table,
    task: Table,
    step: Table,
    note: Table,
}

async fn tables(fixture: &Fixture) -> Tables {
    Tables {
        project: fixture.table("project").await,
        task: fixture.table("task").await,
        step: fixture.table("step").await,
        note: fixture.table("note").await,
    }
}

/// Every row that is left, as SQL sees it.
async fn left(fixture: &Fixture) -> String {
    let sql = "select string_agg(row, ' ' order by row) from (
        select 'project ' || id as row from project
        union all select 'task ' || id || ' of ' || project from task
        union all select 'step ' || id || ' of ' || task from step
        union all select 'note ' || id || ' of ' || coalesce(project::text, 'none') from note) rows";
    fixture.one(sql).await.unwrap_or_default()
}

async fn run(in_one_batch: bool, parent_first: bool) {
    let fixture = Fixture::with_rules(DDL, &rules()).await;
    let t = tables(&fixture).await;
    let mut log = fixture.follow().await;
    let seen = log.row(&t.project, &key(1)).existence().clone();
    let gone = one(1, 1, &t.project, 1, removal(&seen));
    let mut uploads = vec![
        one(2, 1, &t.task, 11, child(2, 1001, 1)),
        one(2, 2, &t.step, 110, child(2, 1002, 11)),
        one(3, 1, &t.note, 21, child(3, 1001, 1)),
        one(3, 2, &t.task, 12, child(3, 1002, 2)),
    ];
    uploads.insert(if parent_first { 0 } else { 4 }, gone);
    let batches: Vec<Vec<Upload>> = match in_one_batch {
        true => vec![uploads],
        false => uploads.into_iter().map(|upload| vec![upload]).collect(),
    };
    for batch in batches {
        let outcomes = fixture.merge(batch).await;
        let merged = |outcome: &MergeOutcome| *outcome == MergeOutcome::Merged;
        assert!(outcomes.iter().all(merged), "{outcomes:?}");
    }
    let expected = "note 20 of none note 21 of none project 2 task 12 of 2";
    assert_eq!(left(&fixture).await, expected);
    log.catch_up(&fixture.sql).await;
    for table in [&t.project, &t.task, &t.step, &t.note] {
        let held = fixture.snapshot(table).await.1;
        assert_eq!(log.present(table), held, "{}", table.name);
    }
    // Those who wrote the children are told that they are gone.
    for (table, id) in [(&t.task, 11), (&t.step, 110)] {
        assert!(!log.row(table, &key(id)).existence().is_empty());
    }
}

#[tokio::test]
async fn a_parent_that_goes_first() {
    run(false, true).await;
}

#[tokio::test]
async fn a_parent_that_goes_last() {
    run(false, false).await;
}

#[tokio::test]
async fn all_at_once() {
    run(true, true).await;
    run(true, false).await;
}

#[tokio::test]
async fn a_child_of_nobody_is_refused() {
    let fixture = Fixture::with_rules(DDL, &rules()).await;
    let t = tables(&fixture).await;
    let sent = one(1, 1, &t.task, 11, child(1, 1001, 77));
    let outcomes = fixture.merge(vec![sent]).await;
    assert!(matches!(outcomes[..], [MergeOutcome::Rejected(_)]));
}

#[tokio::test]
async fn a_parent_that_sql_deletes_takes_those_who_come_late() {
    let fixture = Fixture::with_rules(DDL, &rules()).await;
    let t = tables(&fixture).await;
    let mut log = fixture.follow().await;
    fixture.run("delete from project where id = 1").await;
    let sent = one(1, 1, &t.task, 10, child(1, 1001, 1));
    assert_eq!(fixture.merge(vec![sent]).await, [MergeOutcome::Merged]);
    assert_eq!(left(&fixture).await, "note 20 of none project 2");
    log.catch_up(&fixture.sql).await;
    let rows: Vec<RowKey> = log.present(&t.task).into_keys().collect();
    assert_eq!(rows, []);
}

#[tokio::test]
async fn a_foreign_key_that_does_otherwise_is_named() {
    let (url, _) = fresh_database();
    let sql = common::client(&url).await;
    sql.batch_execute(DDL).await.unwrap();
    let task = TableRules::new().reference("project", ReferencePolicy::SetNull);
    let rules = Rules::new().table("task", task);
    let refused = install_with(&url, &TableSelection::All, &rules).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("declare it ON DELETE SET NULL"),
        "{refused}"
    );
}
