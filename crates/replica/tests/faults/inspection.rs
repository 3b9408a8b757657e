//! What must be true of a worker's file after any fault.

use std::{collections::BTreeMap, path::Path};

use anabranch_crdt::{Hlc, RowState};
use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica, examine};
use rusqlite::Connection;

use crate::{
    common::{count, cursor},
    worker::{ROWS, log_of, told},
};

/// What the worker's log says of it.
#[derive(Debug, Default)]
pub struct Log {
    /// The transactions that it was about to commit, or to roll back.
    pub begun: u64,
    /// Those that it has committed.
    pub done: Vec<u64>,
    /// The last transaction of the service that it has merged.
    pub merged: u64,
    /// Why it stopped, if not by being killed.
    pub failed: Vec<String>,
}

impl Log {
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(log_of(file)).unwrap_or_default();
        let mut log = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap();
            match word {
                "begun" => log.begun += 1,
                "done" => log.done.push(rest.parse().unwrap()),
                "merged" => log.merged = rest.parse().unwrap(),
                _ => log.failed.push(rest.to_owned()),
            }
        }
        log
    }
}

/// Examines the file as the fault left it, opens it, and compares it with the log.
pub fn inspect(file: &Path) -> Log {
    let log = Log::read(file);
    assert_eq!(
        examine(file, false).unwrap(),
        [],
        "before anything is opened"
    );
    let mut replica = Replica::open(file, OpenOptions::system()).unwrap();
    own_transactions_are_whole(replica.connection(), &log);
    merged_transactions_are_whole(&mut replica, &log);
    clocks_agree(&mut replica);
    log
}

/// Every transaction that was committed is there, and of no other is there a part.
fn own_transactions_are_whole(conn: &Connection, log: &Log) {
    let mut query = conn
        .prepare(
            "SELECT CAST(note AS INTEGER), count(*) FROM keyed WHERE tenant = 'mine' GROUP BY 1",
        )
        .unwrap();
    let found = query
        .query_map([], |row| {
            let (number, rows): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok((number.unsigned_abs(), rows.unsigned_abs()))
        })
        .unwrap();
    let found: BTreeMap<u64, u64> = found.map(Result::unwrap).collect();
    for number in &log.done {
        assert_eq!(
            found.get(number),
            Some(&ROWS),
            "transaction {number} was committed"
        );
    }
    for (number, rows) in &found {
        assert_eq!(*rows, ROWS, "transaction {number}");
        assert!(number % 4 != 3, "transaction {number} was rolled back");
    }
    let last = found.keys().last();
    let shared = "SELECT max(CAST(note AS INTEGER)) FROM numbered WHERE id = -1";
    let shared: Option<i64> = conn.query_row(shared, [], |row| row.get(0)).unwrap();
    assert_eq!(
        shared.map(i64::unsigned_abs),
        last.copied(),
        "the row that every transaction writes"
    );
    let toggled = last.map_or(0, |last| i64::from(last.is_multiple_of(2)));
    assert_eq!(count(conn, "numbered WHERE id = 0"), toggled);
}

/// What the service told is there up to the cursor, and nothing beyond it.
fn merged_transactions_are_whole(replica: &mut Replica, log: &Log) {
    let cursor = replica.subscriptions().unwrap()[0].cursor.unwrap();
    let position = cursor.position.0;
    assert!(
        position >= log.merged,
        "{position} is behind {}",
        log.merged
    );
    let rows = count(replica.connection(), "keyed WHERE tenant = 'theirs'");
    assert_eq!(rows.unsigned_abs(), position * ROWS);
    for change in told(position, SubscriptionSet::EMPTY) {
        if position == 0 {
            break;
        }
        let table = replica.schema().table(change.table).unwrap().name.clone();
        let held = replica.row_state(&table, &change.key).unwrap().unwrap();
        for (column, _, value) in change.state.cells() {
            assert_eq!(held.value(column), Some(value));
        }
    }
}

/// The clock of the file: what it stores, or what the newest transaction in the outbox has.
fn clock_of(conn: &Connection) -> Hlc {
    let numbers = "SELECT value FROM anabranch_meta WHERE name = 'numbers'";
    let numbers: Vec<u8> = conn
        .query_row(numbers, [], |row| row.get(0))
        .unwrap_or_else(|_| vec![0; 8]);
    let stored = i64::from_be_bytes(numbers[..8].try_into().unwrap());
    let newest = "SELECT hlc FROM anabranch_outbox ORDER BY seq DESC LIMIT 1";
    let newest: i64 = conn
        .query_row(newest, [], |row| row.get(0))
        .unwrap_or_default();
    Hlc::from_i64(stored.max(newest)).unwrap()
}

/// The clock of the file is at or above every stamp in it, transactions that wait are numbered one
/// after another, and each of their writes is in its row, or a newer one is.
fn clocks_agree(replica: &mut Replica) {
    let hlc = clock_of(replica.connection());
    let mut rows: BTreeMap<_, RowState> = BTreeMap::new();
    for table in replica.schema().tables.clone() {
        for (key, state) in replica.row_states(&table.name).unwrap() {
            assert!(
                state.clock().newest() <= hlc,
                "{key:?} is ahead of the clock"
            );
            rows.insert((table.id, key), state);
        }
    }
    let pending = replica.pending(Seq(0), usize::MAX).unwrap();
    assert_eq!(replica.status().unwrap().pending, pending.len() as u64);
    for pair in pending.windows(2) {
        assert_eq!(pair[0].seq.next(), pair[1].seq);
        assert!(pair[0].stamp < pair[1].stamp);
    }
    for transaction in &pending {
        assert!(transaction.stamp.hlc <= hlc);
        for delta in &transaction.deltas {
            let row = &rows[&(delta.table, delta.key.clone())];
            let mut merged = row.clone();
            let _ = merged.merge(&delta.state);
            assert_eq!(merged, *row, "a pending write is not in its row");
        }
    }
}

/// The replica goes on: it writes, and merges what comes next.
pub fn goes_on(file: &Path) {
    let mut replica = Replica::open(file, OpenOptions::system()).unwrap();
    let subscription = replica.subscriptions().unwrap().remove(0);
    let next = subscription.cursor.unwrap().position.0 + 1;
    let live = SubscriptionSet::only(subscription.id);
    replica
        .merge_transaction(cursor(next), live, Vec::new(), told(next, live))
        .unwrap();
    let written =
        replica.transaction(|tx| tx.execute_batch("INSERT INTO numbered(note) VALUES ('goes on')"));
    assert!(written.unwrap().seq.is_some());
}
