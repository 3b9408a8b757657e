//! Two processes of four threads each write through replicas of their own on one file, while a third
//! merges what the service tells: every write is sealed once, in a number of its own, and every row is
//! as its last write left it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::Duration,
};

use anabranch_crdt::{RowKey, Value};
use anabranch_protocol::{Seq, SubscriptionId, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica};
use common::{NUMBERED, Site, change, count, cursor, shape, text};

const PROCESSES: i64 = 2;
const THREADS: i64 = 4;
const WRITES: i64 = 40;

/// Under which names the test tells the processes that it starts what to do.
const FILE: &str = "ANABRANCH_TEST_FILE";
const PROCESS: &str = "ANABRANCH_TEST_PROCESS";

fn open(path: &Path) -> Replica {
    let options = OpenOptions {
        busy_timeout: Duration::from_secs(60),
        ..OpenOptions::system()
    };
    Replica::open(path, options).unwrap()
}

/// One window's work: rows of its own, and one that everybody changes.
fn write(path: &Path, window: i64) {
    let mut replica = open(path);
    for write in 0..WRITES {
        let id = window * 1_000 + write;
        let committed = replica.transaction(|tx| {
            tx.execute("INSERT INTO numbered VALUES (?1, 'new')", [id])?;
            let sql = "UPDATE numbered SET note = 1 + note WHERE id = 0";
            tx.execute(sql, [])
        });
        assert!(committed.unwrap().seq.is_some());
        if write % 8 == 0 {
            // As a program without the engine.
            let sql = "UPDATE numbered SET note = 'changed' WHERE id = ?1";
            replica.connection().execute(sql, [id]).unwrap();
        }
    }
}

/// What a process started by the test does; nothing in an ordinary run.
#[test]
fn as_a_process_of_its_own() {
    let (Ok(path), Ok(process)) = (std::env::var(FILE), std::env::var(PROCESS)) else {
        return;
    };
    let (path, process) = (PathBuf::from(path), process.parse::<i64>().unwrap());
    thread::scope(|scope| {
        for thread in 1..=THREADS {
            let path = &path;
            scope.spawn(move || write(path, process * THREADS + thread));
        }
    });
}

/// Starts the processes.
fn start(path: &Path) -> Vec<Child> {
    let process = |number: i64| {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["as_a_process_of_its_own", "--exact"]);
        process.env(FILE, path).env(PROCESS, number.to_string());
        process.spawn().unwrap()
    };
    (0..PROCESSES).map(process).collect()
}

/// Merges rows that somebody else has written, until the processes have ended; how many.
fn merge_while(merging: &mut Replica, id: SubscriptionId, mut running: Vec<Child>) -> i64 {
    let mut author = Site::new(9);
    let live = SubscriptionSet::only(id);
    let mut told = 0_i64;
    while !running.is_empty() {
        told += 1;
        let row = 100_000 + told;
        author.run(&format!("INSERT INTO numbered VALUES ({row}, 'theirs')"));
        let deltas = author.last().deltas;
        let changes = deltas.iter().map(|delta| change(delta, live)).collect();
        let position = cursor(told.unsigned_abs());
        merging
            .merge_transaction(position, live, Vec::new(), changes)
            .unwrap();
        running.retain_mut(|process| match process.try_wait().unwrap() {
            Some(ended) => {
                assert!(ended.success());
                false
            }
            None => true,
        });
    }
    told
}

#[test]
fn no_write_is_lost_and_none_is_sealed_twice() {
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("everything")).unwrap();
    site.replica.finish_snapshot(id, cursor(0)).unwrap();
    site.run("INSERT INTO numbered VALUES (0, '0')");
    let mut merging = open(&site.path);
    let told = merge_while(&mut merging, id, start(&site.path));

    merging.seal().unwrap();
    let reader = merging.reader().unwrap();
    let windows = PROCESSES * THREADS;
    assert_eq!(count(&reader, "numbered"), 1 + windows * WRITES + told);
    let counted = text(&reader, "SELECT note FROM numbered WHERE id = 0");
    assert_eq!(counted, Some((windows * WRITES).to_string()));
    let integrity = text(&reader, "PRAGMA integrity_check");
    assert_eq!(integrity.as_deref(), Some("ok"));
    assert_eq!(count(&reader, "anabranch_capture WHERE op > 0"), 0);

    let waiting = merging.pending(Seq(0), usize::MAX).unwrap();
    assert_eq!(merging.status().unwrap().pending, waiting.len() as u64);
    let stamps: BTreeSet<_> = waiting.iter().map(|waits| waits.stamp).collect();
    assert_eq!(stamps.len(), waiting.len(), "a stamp was given out twice");
    assert!(waiting.is_sorted_by(|one, next| one.stamp < next.stamp));
    // The outbox alone makes the same rows.
    let mut elsewhere = Site::new(5);
    elsewhere.keep_everything();
    elsewhere.hear(&waiting);
    let zero = RowKey(vec![Value::Integer(0)]);
    let own = |site: &Replica| {
        let conn = site.connection();
        text(
            conn,
            "SELECT group_concat(id || note ORDER BY id) FROM numbered WHERE id < 100000",
        )
    };
    assert_eq!(own(&elsewhere.replica), own(&merging));
    let inserts = waiting.iter().flat_map(|waits| &waits.deltas);
    let keys: BTreeSet<_> = inserts
        .filter(|delta| delta.table == NUMBERED)
        .map(|delta| &delta.key)
        .collect();
    assert_eq!(keys.len(), usize::try_from(1 + windows * WRITES).unwrap());
    assert!(keys.contains(&zero));
}
