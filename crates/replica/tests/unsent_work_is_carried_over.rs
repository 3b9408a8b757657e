//! What one file had not sent can be brought into another, as writes of that one that are as old as
//! they were.
mod common;

use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::{Replica, ReplicaError};
use common::{Clock, Site, counting, options};

#[test]
fn an_exported_outbox_is_written_by_who_imports_it() {
    let (mut old, mut new) = (Site::new(1), Site::new(2));
    old.keep_everything();
    new.keep_everything();
    old.run("INSERT INTO numbered VALUES (1, 'unsent'), (2, 'deleted'), (3, 'older')");
    old.run("DELETE FROM numbered WHERE id = 2");
    old.run("UPDATE numbered SET note = 'changed' WHERE id = 1");
    new.clock.advance(1_000);
    new.run("INSERT INTO numbered VALUES (3, 'newer')");
    new.replica.take_events();

    let exported = old.replica.export_outbox().unwrap();
    assert_eq!(new.replica.import_outbox(&exported).unwrap(), 3);
    assert_eq!(new.count("numbered"), 2);
    let note = |id| format!("SELECT note FROM numbered WHERE id = {id}");
    assert_eq!(new.text(&note(1)).as_deref(), Some("changed"));
    assert_eq!(new.text(&note(3)).as_deref(), Some("newer"));
    let pending = new.pending();
    let seqs: Vec<u64> = pending.iter().map(|waits| waits.seq.0).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    let id = new.replica.id();
    assert!(pending.iter().all(|waits| waits.stamp.replica == id));
    assert_eq!(new.replica.status().unwrap().pending, 4);

    // Everybody who hears of it ends like the importer.
    let mut third = Site::new(3);
    third.keep_everything();
    third.hear(&pending);
    assert_eq!(third.everything(), new.everything());
    // And the importer's next write is above all of it, though the newest that waits is not, and
    // the clock has been set back meanwhile.
    let path = new.path.clone();
    new.replica = Replica::open(path, options(&Clock::new(), 2)).unwrap();
    new.run("UPDATE numbered SET note = 'last' WHERE id = 1");
    assert!(pending.iter().all(|waits| waits.stamp < new.last().stamp));
}

#[test]
fn what_is_no_outbox_is_refused_and_nothing_is_written() {
    let (mut old, mut new) = (Site::new(1), Site::new(2));
    old.run("INSERT INTO numbered VALUES (1, 'a')");
    old.run("INSERT INTO numbered VALUES (2, 'b')");
    let exported = old.replica.export_outbox().unwrap();
    for cut in [0, 5, 21, 27, 30, exported.len() - 1] {
        assert!(new.replica.import_outbox(&exported[..cut]).is_err());
    }
    assert_eq!(new.replica.first_pending().unwrap(), Seq(1));
    assert_eq!(new.count("numbered"), 0);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no schema yet.db");
    let mut empty = Replica::open(path, options(&Clock::new(), 3)).unwrap();
    assert!(matches!(
        empty.import_outbox(&exported),
        Err(ReplicaError::NoTable(_))
    ));
    assert!(empty.pending(Seq(0), usize::MAX).unwrap().is_empty());
}

#[test]
fn what_was_added_to_a_counter_is_added_whatever_the_importer_has_counted_since() {
    let mut old = Site::adopting(1, Clock::new(), counting());
    let mut new = Site::adopting(2, Clock::new(), counting());
    new.keep_everything();
    old.run("INSERT INTO keyed VALUES ('t', 1, 'a', 5, '[]')");
    new.clock.advance(1_000);
    new.run("INSERT INTO keyed VALUES ('t', 1, 'b', 2, '[]')");
    // The store has taken in what the importer added, and tells the total.
    let mut told = new.last().deltas.remove(0);
    let mut clock = told.state.clock().clone();
    clock.settle();
    for (column, settled) in clock.columns() {
        told.state.set_column(*column, settled.clone());
    }
    let live = SubscriptionSet::EMPTY;
    let changes = vec![common::change(&told, live)];
    new.replica
        .merge_transaction(common::cursor(1), live, vec![Seq(1)], changes)
        .unwrap();

    let exported = old.replica.export_outbox().unwrap();
    new.replica.import_outbox(&exported).unwrap();
    let amount = "SELECT amount || '' FROM keyed";
    assert_eq!(new.text(amount).as_deref(), Some("7"));
    let waits = new.last();
    let mut stamps = waits.deltas[0].state.cells().map(|(_, stamp, _)| stamp);
    assert!(stamps.all(|stamp| stamp == waits.stamp));
}
