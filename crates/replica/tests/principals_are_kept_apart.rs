//! A file serves the principal it is bound to and nobody else, until that one signs out; what it has
//! not sent is kept, carried away or discarded, as the owner says.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod common;

use std::path::Path;

use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::{
    Event, Fingerprint, LiveQuery, OpenError, OpenOptions, Principal, Replica, ReplicaError,
    SignOut, TransactionError,
};
use common::{Clock, Hub, Site, count, options, text};

fn ann() -> Fingerprint {
    Fingerprint::of("https://login.example.org", "ann")
}

fn bob() -> Fingerprint {
    Fingerprint::of("https://login.example.org", "bob")
}

fn open(path: &Path, principal: Principal) -> Result<Replica, OpenError> {
    Replica::open(
        path,
        OpenOptions {
            principal,
            ..options(&Clock::new(), 7)
        },
    )
}

/// Whether the file opens for the principal.
fn opens(path: &Path, principal: Principal) -> bool {
    open(path, principal).is_ok()
}

/// A replica of Ann's: a row that the store has, of which she has changed a field, and one that she
/// has just written.
fn anns_site(hub: &mut Hub) -> Site {
    let mut author = Site::new(9);
    author.run("INSERT INTO numbered VALUES (1, 'of the store')");
    hub.push(&author);
    let mut site = Site::new(1);
    site.replica.bind(ann()).unwrap();
    let id = site.keep_everything();
    hub.snapshot(&mut site, id);
    site.run("UPDATE numbered SET note = 'edited by ann' WHERE id = 1");
    site.run("INSERT INTO numbered VALUES (2, 'unsent secret')");
    site
}

#[test]
fn a_bound_file_opens_for_its_owner_only() {
    let mut site = Site::new(1);
    site.replica.bind(ann()).unwrap();
    site.replica.bind(ann()).unwrap();
    let refused = site.replica.bind(bob());
    assert!(matches!(refused, Err(ReplicaError::OtherPrincipal)));
    assert!(opens(&site.path, Principal::Is(ann())));
    assert!(opens(&site.path, Principal::Owner));
    let refused = open(&site.path, Principal::Is(bob())).unwrap_err();
    assert!(matches!(
        refused,
        OpenError::Replica(ReplicaError::OtherPrincipal)
    ));
    assert!(refused.to_string().contains("sign out"));
    let refused = open(&site.path, Principal::Nobody).unwrap_err();
    assert!(matches!(
        refused,
        OpenError::Replica(ReplicaError::PrincipalNeeded)
    ));
    // The first that a file of nobody's is opened for is its owner from then on.
    let other = Site::new(2);
    assert!(opens(&other.path, Principal::Is(bob())));
    assert!(!opens(&other.path, Principal::Is(ann())));
}

#[test]
fn what_was_kept_waits_for_its_owner_and_goes_on() {
    let mut hub = Hub::default();
    let site = anns_site(&mut hub);
    let (path, unsent, id) = (site.path.clone(), site.pending(), site.replica.id());
    let Site {
        replica,
        _directory,
        ..
    } = site;
    assert_eq!(replica.sign_out(SignOut::KeepOutbox).unwrap(), 2);

    let file = common::open_foreign(&path);
    for table in [
        "numbered",
        "anabranch_clock_4",
        "anabranch_subscription",
        "anabranch_told",
    ] {
        assert_eq!(count(&file, table), 0, "{table}");
    }
    assert!(!opens(&path, Principal::Is(bob())));
    let looking = open(&path, Principal::Owner).unwrap();
    assert_eq!(looking.status().unwrap().pending, 2);
    drop(looking);

    let mut replica = open(&path, Principal::Is(ann())).unwrap();
    assert_eq!(replica.id(), id);
    assert_eq!(replica.pending(Seq(0), usize::MAX).unwrap(), unsent);
    let note = "SELECT group_concat(note ORDER BY id) FROM numbered";
    let shown = text(replica.connection(), note);
    assert_eq!(shown.as_deref(), Some("edited by ann,unsent secret"));
    // It is sent, and the rows come back around it.
    let subscription = replica.subscribe(&common::shape("everything")).unwrap();
    let mut site = Site {
        replica,
        clock: Clock::new(),
        path,
        _directory,
    };
    hub.snapshot(&mut site, subscription);
    hub.push(&site);
    hub.tell(&mut site, subscription, 1);
    assert!(site.pending().is_empty());
    assert_eq!(
        site.text(note).as_deref(),
        Some("edited by ann,unsent secret")
    );
    assert_eq!(
        site.run("INSERT INTO numbered VALUES (3, 'next')"),
        Some(Seq(3))
    );
}

#[test]
fn a_file_left_empty_is_the_next_ones_under_an_identity_of_its_own() {
    let mut hub = Hub::default();
    let site = anns_site(&mut hub);
    let before = site.replica.id();
    let path = site.path.clone();
    let local = "CREATE TABLE own(x); INSERT INTO own VALUES ('stays')";
    site.replica.connection().execute_batch(local).unwrap();
    let mut live = LiveQuery::new("SELECT id FROM numbered", vec![], &["id"]);
    let watching = site.foreign();
    live.refresh(&watching).unwrap();
    // One that draws another identity.
    let replica = open(&path, Principal::Is(ann())).unwrap();
    assert_eq!(replica.sign_out(SignOut::Discard).unwrap(), 2);
    let diff = live.refresh(&watching).unwrap().unwrap();
    assert_eq!(diff.removed.len(), 2);
    drop(watching);

    let mut replica = open(&path, Principal::Is(bob())).unwrap();
    assert_ne!(replica.id(), before);
    assert_eq!(count(replica.connection(), "own"), 1);
    assert_eq!(count(replica.connection(), "numbered"), 0);
    assert_eq!(replica.status().unwrap().pending, 0);
    let written =
        replica.transaction(|tx| tx.execute("INSERT INTO numbered VALUES (5, 'bob')", []));
    written.unwrap();
    let waits = replica.pending(Seq(0), usize::MAX).unwrap();
    assert!(
        waits
            .iter()
            .all(|waits| waits.stamp.replica == replica.id())
    );
    assert!(!opens(&path, Principal::Is(ann())));
}

#[test]
fn nothing_that_was_signed_out_is_left_on_the_disk() {
    let mut hub = Hub::default();
    let site = anns_site(&mut hub);
    let path = site.path.clone();
    let Site {
        replica,
        _directory,
        ..
    } = site;
    replica.sign_out(SignOut::Discard).unwrap();
    let wal = path.with_extension("db-wal");
    for file in [path, wal].iter().filter(|file| file.exists()) {
        let bytes = std::fs::read(file).unwrap();
        for secret in ["of the store", "edited by ann", "unsent secret"] {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {}", file.display());
        }
    }
}

#[test]
fn what_was_exported_goes_on_in_another_file() {
    let mut hub = Hub::default();
    let site = anns_site(&mut hub);
    let Site {
        replica,
        path,
        _directory,
        ..
    } = site;
    let exported = _directory.path().join("unsent");
    std::fs::write(&exported, "in the way").unwrap();
    let refused = replica
        .sign_out(SignOut::ExportOutbox(exported.clone()))
        .unwrap_err();
    assert!(
        matches!(refused, ReplicaError::Unwritable { .. }),
        "{refused}"
    );
    assert_eq!(std::fs::read(&exported).unwrap(), b"in the way");
    // Nothing was done.
    let replica = open(&path, Principal::Is(ann())).unwrap();
    assert_eq!(replica.status().unwrap().pending, 2);
    std::fs::remove_file(&exported).unwrap();
    let count = replica
        .sign_out(SignOut::ExportOutbox(exported.clone()))
        .unwrap();
    assert_eq!(count, 2);
    assert!(opens(&path, Principal::Is(bob())));

    let mut other = Site::new(5);
    other.replica.bind(ann()).unwrap();
    let bytes = std::fs::read(&exported).unwrap();
    assert_eq!(other.replica.import_outbox(&bytes).unwrap(), 2);
    assert_eq!(other.count("numbered"), 2);
}

#[test]
fn a_window_that_is_still_open_writes_and_sends_no_more() {
    let mut hub = Hub::default();
    let site = anns_site(&mut hub);
    let mut window = open(&site.path, Principal::Is(ann())).unwrap();
    let mut told = Vec::new();
    let live = SubscriptionSet::only(window.subscriptions().unwrap()[0].id);
    let Site {
        replica,
        _directory,
        path,
        ..
    } = site;
    for how in [SignOut::KeepOutbox, SignOut::Discard] {
        open(&path, Principal::Is(ann()))
            .unwrap()
            .sign_out(how)
            .unwrap();
        let refused = window.pending(Seq(0), usize::MAX).unwrap_err();
        assert!(matches!(refused, ReplicaError::SignedOut), "{refused}");
        let written =
            window.transaction(|tx| tx.execute("INSERT INTO numbered VALUES (9, 'x')", []));
        assert!(matches!(
            written,
            Err(TransactionError::Replica(ReplicaError::SignedOut))
        ));
        told.extend(window.take_events());
    }
    // What its session is still told is not taken in.
    let mut author = Site::new(8);
    author.run("INSERT INTO numbered VALUES (7, 'for ann')");
    let told_late = author.last().deltas;
    let changes = told_late.iter().map(|delta| common::change(delta, live));
    let merged = window.merge_transaction(common::cursor(9), live, vec![], changes.collect());
    assert!(matches!(merged, Err(ReplicaError::SignedOut)), "{merged:?}");
    assert_eq!(count(window.connection(), "numbered"), 0);
    assert!(!told.iter().any(|event| matches!(event, Event::Rows { .. })));
    assert!(replica.still_admits().is_err());
    open(&path, Principal::Is(bob())).unwrap();
    let refused = window.pending(Seq(0), usize::MAX).unwrap_err();
    assert!(matches!(refused, ReplicaError::OtherPrincipal), "{refused}");
}

#[test]
fn unsent_work_on_a_table_that_is_gone_does_not_lock_its_owner_out() {
    let mut site = Site::new(1);
    site.replica.bind(ann()).unwrap();
    site.run("INSERT INTO numbered VALUES (1, 'a')");
    site.run("INSERT INTO keyed VALUES ('t', 1, 'b', NULL)");
    let mut narrower = common::schema();
    narrower.version = 2;
    narrower.tables.truncate(3);
    site.replica.adopt_schema(narrower).unwrap();
    let waits = site.pending();
    let Site {
        replica,
        path,
        _directory,
        ..
    } = site;
    replica.sign_out(SignOut::KeepOutbox).unwrap();
    let replica = open(&path, Principal::Is(ann())).unwrap();
    assert_eq!(replica.pending(Seq(0), usize::MAX).unwrap(), waits);
    assert_eq!(count(replica.connection(), "keyed"), 1);
}
