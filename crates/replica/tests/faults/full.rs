//! No room: the file has reached its limit, or the system refuses to write.

use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica, TransactionError, examine};

use crate::{
    common::{Clock, Site, count, cursor, options},
    inspection::{goes_on, inspect},
    worker::{command, prepare, told},
};

/// Makes the file's limit what it has and some pages.
fn limited(site: &Site, pages: u64) -> Replica {
    let length = std::fs::metadata(&site.path).unwrap().len();
    let limited = OpenOptions {
        file_bytes_max: Some(length + pages * 8_192),
        ..options(&Clock::new(), 1)
    };
    Replica::open(&site.path, limited).unwrap()
}

fn site_of_one_row() -> Site {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    site.replica.finish_snapshot(id, cursor(0)).unwrap();
    site.run("INSERT INTO numbered VALUES (0, 'before')");
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    site.foreign()
        .query_row(checkpoint, [], |_| Ok(()))
        .unwrap();
    site
}

#[test]
fn what_does_not_fit_is_not_written_at_all() {
    for pages in 0..40 {
        let mut site = site_of_one_row();
        site.replica = limited(&site, pages);
        let mut written = 0;
        let refused = loop {
            let rows =
                (0..3).map(|row| format!("({}, hex(zeroblob(1000)))", 1 + written * 3 + row));
            let rows = rows.collect::<Vec<_>>().join(", ");
            let sql = format!("INSERT INTO numbered VALUES {rows}");
            match site.replica.transaction(|tx| tx.execute_batch(&sql)) {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        match refused {
            TransactionError::Work(error) => assert!(error.to_string().contains("full"), "{error}"),
            error => assert!(
                error.to_string().contains("free space on the disk"),
                "{error}"
            ),
        }
        assert_eq!(
            site.count("numbered"),
            1 + written * 3,
            "with {pages} pages"
        );
        assert_eq!(site.pending().len(), 1 + usize::try_from(written).unwrap());
        assert_eq!(examine(&site.path, false).unwrap(), []);
        // There is room again.
        site.replica = Replica::open(&site.path, options(&site.clock, 1)).unwrap();
        let next = Seq(2 + written.unsigned_abs());
        assert_eq!(
            site.run("INSERT INTO numbered VALUES (-1, 'goes on')"),
            Some(next)
        );
    }
}

#[test]
fn a_merge_that_does_not_fit_waits_for_room() {
    for pages in 0..20 {
        let mut site = site_of_one_row();
        let live = SubscriptionSet::only(site.replica.subscriptions().unwrap()[0].id);
        site.replica = limited(&site, pages);
        let mut merged = 0;
        let refused = loop {
            let mut changes = Vec::new();
            for position in 0..100 {
                let rows = told(1 + merged * 100 + position, live);
                changes.extend(rows.into_iter().take(3));
            }
            match site
                .replica
                .merge_transaction(cursor(merged + 1), live, Vec::new(), changes)
            {
                Ok(()) => merged += 1,
                Err(error) => break error,
            }
        };
        assert!(
            refused.to_string().contains("free space on the disk"),
            "{refused}"
        );
        let position = site.replica.subscriptions().unwrap()[0]
            .cursor
            .unwrap()
            .position
            .0;
        assert_eq!(position, merged);
        assert_eq!(site.count("keyed").unsigned_abs(), merged * 300);
        assert_eq!(examine(&site.path, false).unwrap(), []);
        site.replica = Replica::open(&site.path, options(&site.clock, 1)).unwrap();
        site.replica
            .merge_transaction(cursor(merged + 1), live, Vec::new(), told(9_999, live))
            .unwrap();
        assert_eq!(site.count("keyed").unsigned_abs(), merged * 300 + 3);
    }
}

#[test]
fn what_another_program_wrote_waits_for_room_to_be_sealed() {
    let mut site = site_of_one_row();
    let foreign = site.foreign();
    for id in 1..20 {
        let sql = "INSERT INTO numbered VALUES (?1, hex(zeroblob(4000)))";
        foreign.execute(sql, [id]).unwrap();
    }
    // Opening seals, and there is no room for the outbox.
    let length = std::fs::metadata(&site.path).unwrap().len();
    let limited = OpenOptions {
        file_bytes_max: Some(length),
        ..options(&Clock::new(), 1)
    };
    let refused = Replica::open(&site.path, limited).unwrap_err();
    assert!(
        refused.to_string().contains("free space on the disk"),
        "{refused}"
    );
    assert_eq!(count(&foreign, "numbered"), 20);
    assert_eq!(site.replica.seal().unwrap(), Some(Seq(2)));
    assert_eq!(site.last().deltas.len(), 19);
}

/// The system refuses to let a file grow beyond a bound, as it does on a quota. The write-ahead log
/// reaches it first, in the middle of some commit.
#[cfg(unix)]
#[test]
fn a_write_that_the_system_refuses_loses_nothing() {
    for blocks in [800, 1_000, 1_300, 1_700, 2_200, 3_000] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("replica.db");
        prepare(&file);
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut worker = command(&file, &["sh", "-c", &script]).spawn().unwrap();
        worker.wait().unwrap();
        let log = inspect(&file);
        assert!(log.done.len() > 1, "{blocks} blocks are too few: {log:?}");
        assert_eq!(log.failed.len(), 1);
        assert!(log.failed[0].contains("disk"), "{}", log.failed[0]);
        goes_on(&file);
    }
}
