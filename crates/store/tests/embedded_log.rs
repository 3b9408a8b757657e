//! The log is bounded, survives a restart, and says so when it no longer reaches back.
mod common;

use anabranch_protocol::Position;
use anabranch_store::StoreError;
use common::Site;

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)";

#[test]
fn positions_go_on_after_a_restart() {
    let mut site = Site::new(TABLE);
    for row in 0..3 {
        site.run(&format!("INSERT INTO t VALUES ({row}, 'x')"));
        assert_eq!(site.core.position().unwrap(), Position(row + 1));
    }
    // Written while no store runs.
    site.run("UPDATE t SET a = 'y' WHERE id = 0");
    site.reopen();
    let log = site.core.changes_since(Position(1)).unwrap();
    let positions: Vec<u64> = log.iter().map(|entry| entry.position.0).collect();
    assert_eq!(positions, [2, 3, 4]);
    let stamps: Vec<_> = log
        .iter()
        .map(|entry| entry.deltas[0].state.clock().newest())
        .collect();
    assert!(stamps.is_sorted());
    assert!(site.core.changes_since(Position(4)).unwrap().is_empty());
}

#[test]
fn a_log_that_was_cut_is_an_error_and_not_a_hole() {
    let mut site = Site::new(TABLE);
    for row in 0..3 {
        site.run(&format!("INSERT INTO t VALUES ({row}, 'x')"));
        site.core.seal().unwrap();
    }
    site.run("DELETE FROM anabranch_log WHERE position <= 2");
    assert!(matches!(
        site.core.changes_since(Position(1)),
        Err(StoreError::Damaged(_))
    ));
    assert_eq!(site.core.changes_since(Position(2)).unwrap().len(), 1);
    site.run("DELETE FROM anabranch_log");
    assert!(matches!(
        site.core.changes_since(Position(2)),
        Err(StoreError::Damaged(_))
    ));
    assert_eq!(site.core.position().unwrap(), Position(3));
}

#[test]
fn what_other_programs_did_in_one_transaction_is_one_transaction() {
    let mut site = Site::new(TABLE);
    site.run("BEGIN; INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET a = 'c'; COMMIT");
    let log = site.core.changes_since(Position(0)).unwrap();
    assert_eq!((log.len(), log[0].deltas.len()), (1, 2));
    site.run("BEGIN; UPDATE t SET a = 'd'; ROLLBACK; UPDATE t SET a = 'c'");
    assert!(site.core.changes_since(Position(1)).unwrap().is_empty());
}
