//! A child that comes into its table while its parent is removed brings the parent back, and its
//! parents, as a write of the store; where that cannot be, the constraint refuses the child.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use anabranch_crdt::{Hlc, Millis, ReplicaId, RowKey, RowState, Value};
use anabranch_protocol::{Position, RejectCode, Seq};
use anabranch_shape::{
    rules::{Rules, TableRules},
    schema::ReferencePolicy,
};
use anabranch_store::{MergeOutcome, embedded::limits::REVIVED_GENERATIONS_MAX};
use common::{START, Site, key, removal, replica, stamp, upload, write};

const TABLES: &str = "
    CREATE TABLE area (name TEXT PRIMARY KEY);
    CREATE TABLE team (id INTEGER PRIMARY KEY, area TEXT REFERENCES area, title TEXT NOT NULL);
    CREATE TABLE item (
        id INTEGER PRIMARY KEY, team INTEGER NOT NULL REFERENCES team ON DELETE CASCADE, v INTEGER);
    CREATE TABLE node (id INTEGER PRIMARY KEY, up INTEGER REFERENCES node ON DELETE CASCADE);
    INSERT INTO area VALUES ('north');
    INSERT INTO team VALUES (1, 'north', 'one'), (2, 'north', 'two');
    INSERT INTO item VALUES (10, 1, 0), (20, 2, 0);
";

/// What an update of `item` 10 says that does not write its team.
fn update(site: &Site, seq: u64) -> anabranch_store::Upload {
    let at = stamp(5000 + seq, 1);
    let delta = write(site.table("item"), key(10), at, &[(3, Value::Integer(7))]);
    upload(1, seq, at, vec![delta])
}

fn left(site: &Site) -> String {
    let sql = "SELECT group_concat(row, ' ') FROM (
        SELECT 'area ' || name AS row FROM area
        UNION ALL SELECT 'team ' || id || ' in ' || coalesce(area, 'none') || ' ' || title FROM team
        UNION ALL SELECT 'item ' || id || ' of ' || team || ' ' || v FROM item
        ORDER BY row)";
    site.text(sql).unwrap_or_default()
}

fn assert_refused(outcome: MergeOutcome) {
    match outcome {
        MergeOutcome::Rejected(why) => assert_eq!(why.code, RejectCode::Constraint, "{why:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_that_an_update_brings_back_brings_its_parents_whole() {
    let mut site = Site::new(TABLES);
    site.run("DELETE FROM team; DELETE FROM area");
    assert_eq!(left(&site), "");
    let before = site.core.position().unwrap();
    let sent = update(&site, 1);
    assert_eq!(site.merge(sent), MergeOutcome::Merged);
    assert_eq!(left(&site), "area north item 10 of 1 7 team 1 in north one");
    // It is one transaction, in which the parents' return is the server's.
    let log = site.core.changes_since(before).unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].origins, [(replica(1), Seq(1))]);
    for (table, row) in [
        ("team", key(1)),
        ("area", RowKey(vec![Value::text("north")])),
    ] {
        let table = site.table(table);
        let told = log[0].deltas.iter();
        let mut told = told.filter(|delta| delta.table == table && delta.key == row);
        let mut entries = told.next().unwrap().state.existence().entries().iter();
        let is_live = |state: &RowState| state.existence().is_present();
        assert!(log[0].deltas.iter().all(|delta| is_live(&delta.state)));
        assert!(entries.all(|entry| entry.stamp.replica == ReplicaId::SERVER));
    }
}

#[test]
fn a_child_that_moves_to_a_removed_parent_brings_it_back() {
    let mut site = Site::new(TABLES);
    site.run("DELETE FROM team WHERE id = 2");
    let at = stamp(5000, 1);
    let moved = write(site.table("item"), key(10), at, &[(2, Value::Integer(2))]);
    assert_eq!(
        site.merge(upload(1, 1, at, vec![moved])),
        MergeOutcome::Merged
    );
    let expected = "area north item 10 of 2 0 team 1 in north one team 2 in north two";
    assert_eq!(left(&site), expected);
}

#[test]
fn a_parent_comes_back_without_its_children() {
    let mut site = Site::new(TABLES);
    site.run("INSERT INTO item VALUES (11, 1, 0); DELETE FROM team WHERE id = 1");
    let sent = update(&site, 1);
    assert_eq!(site.merge(sent), MergeOutcome::Merged);
    let expected =
        "area north item 10 of 1 7 item 20 of 2 0 team 1 in north one team 2 in north two";
    assert_eq!(left(&site), expected);
}

#[test]
fn a_parent_that_nobody_knows_any_more_is_a_reference_to_nothing() {
    let mut site = Site::new(TABLES);
    let at = stamp(1, 2);
    let orphan = write(site.table("item"), key(30), at, &[(2, Value::Integer(77))]);
    assert_refused(site.merge(upload(2, 1, at, vec![orphan])));

    site.run("DELETE FROM item WHERE id = 10; DELETE FROM team WHERE id = 1");
    let item = site.table("item");
    site.core.forget_removed(Hlc::ZERO).unwrap();
    // The item is written to again, so that its team alone is forgotten.
    let day = 24 * 60 * 60 * 1000;
    site.time
        .store(START + 2 * day, std::sync::atomic::Ordering::SeqCst);
    let seen = stamp(2 * day, 2);
    let gone = removal(item, key(10), RowState::live(seen).existence());
    let mut gone = upload(2, 2, seen, vec![gone]);
    gone.transaction.inserts = anabranch_protocol::Inserts::all(0);
    assert_eq!(site.merge(gone), MergeOutcome::Merged);
    let horizon = Hlc::new(Millis(START + day), 0).unwrap();
    assert_eq!(site.core.forget_removed(horizon).unwrap(), 1);

    let sent = update(&site, 1);
    assert_refused(site.merge(sent));
    assert_eq!(left(&site), "area north item 20 of 2 0 team 2 in north two");
}

#[test]
fn a_parent_that_goes_with_its_own_stays_away() {
    let sql = TABLES.replace("REFERENCES area", "REFERENCES area ON DELETE CASCADE");
    let team = TableRules::new().reference("area", ReferencePolicy::Cascade);
    let mut site = Site::with_rules(&sql, &Rules::new().table("team", team));
    site.run("DELETE FROM area");
    let sent = update(&site, 1);
    assert_refused(site.merge(sent));
    assert_eq!(left(&site), "");
}

#[test]
fn a_parent_that_outlives_its_own_comes_back_without_it() {
    let sql = TABLES.replace("REFERENCES area", "REFERENCES area ON DELETE SET NULL");
    let team = TableRules::new().reference("area", ReferencePolicy::SetNull);
    let mut site = Site::with_rules(&sql, &Rules::new().table("team", team));
    site.run("DELETE FROM team; DELETE FROM area");
    let sent = update(&site, 1);
    assert_eq!(site.merge(sent), MergeOutcome::Merged);
    assert_eq!(left(&site), "item 10 of 1 7 team 1 in none one");
}

#[test]
fn a_tree_comes_back_to_a_depth() {
    for (deeper, refused) in [(0, false), (1, true)] {
        let mut site = Site::new(TABLES);
        let depth = i64::from(REVIVED_GENERATIONS_MAX) + deeper;
        site.run(&format!(
            "INSERT INTO node VALUES (0, NULL);
             WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {depth})
             INSERT INTO node SELECT id, id - 1 FROM n"
        ));
        site.core.seal().unwrap();
        site.run("DELETE FROM node WHERE id = 0");
        let at = stamp(5000, 1);
        let leaf = write(site.table("node"), key(depth), at, &[]);
        let outcome = site.merge(upload(1, 1, at, vec![leaf]));
        let count = site.text("SELECT cast(count(*) AS TEXT) FROM node");
        if refused {
            assert_refused(outcome);
            assert_eq!(count.unwrap(), "0");
        } else {
            assert_eq!(outcome, MergeOutcome::Merged);
            assert_eq!(count.unwrap(), (depth + 1).to_string());
        }
        assert!(site.core.position().unwrap() > Position(0));
    }
}
