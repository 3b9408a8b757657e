//! VACUUM, VACUUM INTO, checkpoints and backups of a file that is being merged into: nothing breaks,
//! nothing is lost, and a copy is whole as of some transaction.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anabranch_crdt::{ColumnId, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, Value};
use anabranch_protocol::{Change, SubscriptionId, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica, examine};
use common::{Clock, KEYED, NUMBERED, START, Site, count, cursor, options, shape};
use rusqlite::{Connection, ErrorCode};

const TRANSACTIONS: u64 = 400;
const ROWS: u64 = 10;

/// What the service tells at `position`: new rows, rows that go again, and one that they all write.
fn told(position: u64, live: SubscriptionSet) -> Vec<Change> {
    let at = Hlc::new(Millis(START + position), 0).unwrap();
    let stamp = Stamp::new(at, ReplicaId([9; 16]));
    let change = |table, key: Vec<Value>, column, lives: bool| {
        let mut state = RowState::live(stamp);
        state.set(ColumnId(column), stamp, Value::Text(position.to_string()));
        if !lives {
            let removal = state.existence().removal();
            state.existence_mut().merge(&removal);
        }
        let key = RowKey(key);
        Change {
            table,
            key,
            shapes: live,
            state,
        }
    };
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap());
    let rows = (0..ROWS).map(|row| {
        let key = vec![Value::text("theirs"), number(position * ROWS + row)];
        change(KEYED, key, 3, row > 0)
    });
    rows.chain([change(NUMBERED, vec![number(1)], 2, true)])
        .collect()
}

/// Waits for who holds the lock, as an application would.
fn again<E: std::fmt::Display>(mut work: impl FnMut() -> Result<(), E>) {
    let mut last = String::new();
    for _ in 0..1_000 {
        match work() {
            Ok(()) => return,
            Err(error) => last = error.to_string(),
        }
        assert!(last.contains("another program is writing"), "{last}");
    }
    panic!("{last}");
}

fn merge_and_write(replica: &mut Replica, id: SubscriptionId, merged: &AtomicU64) {
    let live = SubscriptionSet::only(id);
    for position in 1..=TRANSACTIONS {
        again(|| {
            let changes = told(position, live);
            replica.merge_transaction(cursor(position), live, Vec::new(), changes)
        });
        if position.is_multiple_of(10) {
            let sql = format!("INSERT INTO keyed VALUES ('mine', {position}, 'x', NULL)");
            again(|| replica.transaction(|tx| tx.execute_batch(&sql)).map(drop));
        }
        merged.store(position, Ordering::SeqCst);
    }
}

/// What is done to the file meanwhile, by a connection of another program's.
fn keep_up(path: &Path, copies: &Path, done: &AtomicBool) -> u64 {
    let conn = Connection::open(path).unwrap();
    let mut copied = 0;
    while !done.load(Ordering::SeqCst) {
        let copy = copies.join(format!("copy-{copied}.db"));
        let into = format!("VACUUM INTO '{}'", copy.display());
        for sql in [
            "VACUUM",
            &into,
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA optimize",
        ] {
            match conn.execute_batch(sql) {
                Ok(()) => copied += u64::from(sql == into),
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
                Err(error) => panic!("{sql}: {error}"),
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    copied
}

/// A copy holds what some moment's cursor says, and goes on from there as a replica of its own.
fn is_whole(copy: &Path, id: u8) {
    assert_eq!(examine(copy, false).unwrap(), []);
    let mut replica = Replica::open(copy, options(&Clock::new(), id)).unwrap();
    assert_eq!(replica.id(), ReplicaId([id; 16]));
    let subscription = replica.subscriptions().unwrap().remove(0);
    let position = subscription.cursor.unwrap().position.0;
    let rows = count(replica.connection(), "keyed WHERE tenant = 'theirs'");
    assert_eq!(rows.unsigned_abs(), position * (ROWS - 1));
    let live = SubscriptionSet::only(subscription.id);
    let next = position + 1;
    replica
        .merge_transaction(cursor(next), live, Vec::new(), told(next, live))
        .unwrap();
    assert_eq!(examine(copy, false).unwrap(), []);
}

#[test]
fn nothing_breaks_while_merges_go_on() {
    let patient = OpenOptions {
        busy_timeout: Duration::from_secs(5),
        ..options(&Clock::new(), 1)
    };
    let mut sites = [Site::new(1), Site::new(1)];
    let copies = tempfile::tempdir().unwrap();
    let subscribe = |site: &mut Site| {
        let id = site.replica.subscribe(&shape("everything")).unwrap();
        site.replica.finish_snapshot(id, cursor(0)).unwrap();
        id
    };
    let ids = [subscribe(&mut sites[0]), subscribe(&mut sites[1])];
    let [site, undisturbed] = &mut sites;
    merge_and_write(&mut undisturbed.replica, ids[1], &AtomicU64::new(0));

    let path = site.path.clone();
    site.replica = Replica::open(&path, patient).unwrap();
    let (done, merged) = (AtomicBool::new(false), AtomicU64::new(0));
    let copied = thread::scope(|scope| {
        let upkeep = scope.spawn(|| keep_up(&path, copies.path(), &done));
        merge_and_write(&mut site.replica, ids[0], &merged);
        done.store(true, Ordering::SeqCst);
        upkeep.join().unwrap()
    });
    assert_eq!(merged.load(Ordering::SeqCst), TRANSACTIONS);
    assert!(copied > 0);
    assert_eq!(examine(&site.path, false).unwrap(), []);
    let backup = copies.path().join("backup.db");
    site.replica.backup_to(&backup).unwrap();
    let told = |site: &mut Site| {
        let mut states = site.everything();
        // Rows written here are stamped by the clock, which the turns of the two may read apart.
        states
            .get_mut("keyed")
            .unwrap()
            .retain(|(key, _)| key.0[0] == Value::text("theirs"));
        states
    };
    assert_eq!(told(site), told(undisturbed));
    assert_eq!(site.pending().len(), undisturbed.pending().len());
    is_whole(&backup, 5);
    for copy in 0..copied {
        is_whole(&copies.path().join(format!("copy-{copy}.db")), 6);
    }
}
