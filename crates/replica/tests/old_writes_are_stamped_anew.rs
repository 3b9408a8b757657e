//! What a replica wrote before the store's memory begins, and never shared, is stamped anew: just above
//! that, in its order, and no later than it must be.
mod common;

use anabranch_crdt::{Hlc, Millis};
use anabranch_protocol::Seq;
use anabranch_replica::{Event, Welcome};
use common::{START, Site};

#[test]
fn old_writes_move_behind_the_horizon_and_newer_ones_stay() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'long ago')");
    site.run("INSERT INTO numbered VALUES (3, 'a little later')");
    let added = site.last();
    site.clock.advance(10_000);
    site.run("DELETE FROM numbered WHERE id = 1");
    site.run("INSERT INTO numbered VALUES (2, 'lately')");
    let before = site.pending();

    let horizon = Hlc::new(Millis(added.stamp.hlc.millis().0 + 5_000), 0).unwrap();
    let welcome = Welcome {
        horizon,
        ..common::welcome(Millis(START + 20_000), Seq(0))
    };
    site.replica.take_events();
    site.replica.welcome(&welcome, None).unwrap();
    assert_eq!(site.replica.take_events(), [Event::Restamped(Seq(1))]);

    let after = site.pending();
    assert!(after.windows(2).all(|pair| pair[0].stamp < pair[1].stamp));
    assert!(after.iter().all(|made| made.stamp.hlc > horizon));
    assert_eq!(after[0].stamp.hlc.millis(), horizon.millis());
    assert_eq!(after[2].stamp, before[2].stamp, "new enough as it was");
    assert_eq!(after[0].inserts, before[0].inserts);

    // The delete speaks of the addition by its new stamp, so whoever hears all of it agrees.
    let mut other = Site::new(2);
    other.keep_everything();
    other.hear(&after);
    assert_eq!(other.everything(), site.everything());
    assert_eq!(
        other
            .text("SELECT group_concat(note) FROM numbered")
            .as_deref(),
        Some("lately,a little later")
    );

    // Once is enough.
    site.replica.take_events();
    site.replica.welcome(&welcome, None).unwrap();
    assert!(site.replica.take_events().is_empty());
}

#[test]
fn what_the_store_has_already_keeps_its_stamp() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'shared')");
    site.run("INSERT INTO numbered VALUES (2, 'not yet')");
    let before = site.pending();
    let welcome = Welcome {
        horizon: Hlc::new(Millis(START + 50_000), 0).unwrap(),
        ..common::welcome(Millis(START + 60_000), Seq(1))
    };
    site.replica.welcome(&welcome, None).unwrap();
    let after = site.pending();
    assert_eq!(after[0], before[0]);
    assert!(after[1].stamp.hlc > welcome.horizon);
}

#[test]
fn what_has_given_way_to_a_newer_value_does_not_come_back() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'older')");
    let mut other = Site::new(2);
    other.clock.advance(10);
    other.run("INSERT INTO numbered VALUES (1, 'newer')");
    site.hear(&other.pending());
    let welcome = Welcome {
        horizon: Hlc::new(Millis(START + 50_000), 0).unwrap(),
        ..common::welcome(Millis(START + 60_000), Seq(0))
    };
    site.replica.welcome(&welcome, None).unwrap();
    other.hear(&site.pending());
    let note = "SELECT note FROM numbered";
    assert_eq!(other.text(note), site.text(note));
    assert_eq!(site.text(note).as_deref(), Some("newer"));
}
