//! A file that was copied or restored takes an identity of its own before it writes again, so that
//! no two files use one number twice; a file that was renamed stays who it is.
#![allow(clippy::unwrap_used)]
mod common;

use std::path::{Path, PathBuf};

use anabranch_crdt::ReplicaId;
use anabranch_protocol::Seq;
use anabranch_replica::{Event, Greeted, Replica};
use common::{Clock, Hub, Site, options};

/// Copies the file as a file manager does after the program has ended.
fn copy(site: &Site, name: &str) -> PathBuf {
    let (from, to) = (&site.path, site.path.with_file_name(name));
    site.replica
        .connection()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    std::fs::copy(from, &to).unwrap();
    to
}

fn open(path: &Path, id: u8) -> Replica {
    Replica::open(path, options(&Clock::new(), id)).unwrap()
}

#[test]
fn a_copy_sends_what_waits_as_its_own_and_both_end_alike() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'kept'), (2, 'deleted')");
    site.run("DELETE FROM numbered WHERE id = 2");
    site.run("UPDATE numbered SET note = 'changed' WHERE id = 1");
    let path = copy(&site, "copy.db");

    let mut other = open(&path, 2);
    assert_eq!(other.id(), ReplicaId([2; 16]));
    let told = other.take_events();
    let numbers = (1..=3).map(|seq| (Seq(seq), Seq(seq + 3))).collect();
    let expected = Event::NewIdentity {
        id: ReplicaId([2; 16]),
        numbers,
    };
    assert_eq!(told, [expected]);
    let pending = other.pending(Seq(0), usize::MAX).unwrap();
    assert!(
        pending
            .iter()
            .all(|waits| waits.stamp.replica == other.id())
    );
    let seqs: Vec<u64> = pending.iter().map(|waits| waits.seq.0).collect();
    assert_eq!(seqs, [4, 5, 6]);
    assert_eq!(open(&path, 3).id(), other.id(), "it stays who it is now");

    // The original has sent its own; the copy's come as well.
    let mut hub = Hub::default();
    hub.push(&site);
    let mut third = Site::new(3);
    third.keep_everything();
    third.hear(&site.pending());
    third.hear(&pending);
    site.hear(&pending);
    assert_eq!(third.everything(), site.everything());
    assert_eq!(third.count("numbered"), 1, "the delete reached both");
    assert_eq!(
        third.text("SELECT note FROM numbered").as_deref(),
        Some("changed")
    );
}

#[test]
fn a_renamed_file_stays_who_it_is() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    let before = site.pending();
    let moved = site.path.with_file_name("moved.db");
    site.replica
        .connection()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    std::fs::rename(&site.path, &moved).unwrap();
    let replica = open(&moved, 2);
    assert_eq!(replica.id(), ReplicaId([1; 16]));
    assert_eq!(replica.pending(Seq(0), usize::MAX).unwrap(), before);
}

#[test]
fn a_backup_written_back_over_the_file_is_told_by_the_store() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'before the backup')");
    // The store has merged a second transaction, which the restored file knows nothing of.
    let path = site.path.clone();
    let mut restored = Replica::open(&path, options(&site.clock, 9)).unwrap();
    let greeted = restored.welcome(&common::welcome(site.clock.now(), Seq(2)), None);
    assert_eq!(greeted.unwrap(), Greeted::Anew);
    assert_eq!(restored.id(), ReplicaId([9; 16]));
    let pending = restored.pending(Seq(0), usize::MAX).unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(
        (pending[0].seq, pending[0].stamp.replica),
        (Seq(2), restored.id())
    );
    let again = restored.welcome(&common::welcome(site.clock.now(), Seq(0)), None);
    assert_eq!(again.unwrap(), Greeted::Known);

    // Another process on the same file writes under the new identity too.
    site.run("INSERT INTO numbered VALUES (2, 'after')");
    assert_eq!(site.last().stamp.replica, restored.id());
    assert_eq!(site.replica.id(), restored.id());
}
