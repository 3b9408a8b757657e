//! A UNIQUE index that only this file has can stand against what the service tells: that is named, and
//! nothing is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use anabranch_protocol::SubscriptionSet;
use common::{Site, change, cursor};

#[test]
fn a_merge_waits_until_the_index_is_gone() {
    let (mut site, mut other) = (Site::new(1), Site::new(2));
    let id = site.keep_everything();
    let live = SubscriptionSet::only(id);
    let index = "CREATE UNIQUE INDEX mine ON numbered(note)";
    site.foreign().execute_batch(index).unwrap();
    site.run("INSERT INTO numbered VALUES (1, 'same')");
    other.run("INSERT INTO numbered VALUES (2, 'same'), (3, 'another')");
    let told = || {
        other
            .last()
            .deltas
            .iter()
            .map(|delta| change(delta, live))
            .collect()
    };
    let refused = site
        .replica
        .merge_transaction(cursor(1), live, Vec::new(), told())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("numbered.note"), "{refused}");
    assert!(refused.contains("drop the index"), "{refused}");
    assert_eq!(
        site.count("numbered"),
        1,
        "the transaction shows whole or not at all"
    );
    assert_eq!(site.replica.subscriptions().unwrap()[0].cursor, None);

    site.foreign().execute_batch("DROP INDEX mine").unwrap();
    site.replica
        .merge_transaction(cursor(1), live, Vec::new(), told())
        .unwrap();
    assert_eq!(site.count("numbered"), 3);
    // The triggers that watched for what the index evicts went with it.
    let evict = "sqlite_schema WHERE type = 'trigger' AND name GLOB '*_evict*'";
    assert_eq!(site.count(evict), 0);
}
