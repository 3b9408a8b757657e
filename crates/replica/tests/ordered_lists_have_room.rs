//! However a list is edited, there is a key between any two neighbours, and keys sort as text.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod common;

use anabranch_replica::{OrderError, limits::ORDER_KEY_BYTES_MAX, order_between};
use common::Site;
use proptest::prelude::*;

/// Inserts at `place` of a sorted list; whether the list is still sorted and has one more.
fn insert(list: &mut Vec<String>, place: usize, random: u64) {
    let place = place % (list.len() + 1);
    let after = place.checked_sub(1).map(|at| list[at].as_str());
    let before = list.get(place).map(String::as_str);
    let key = order_between(after, before, random).unwrap();
    list.insert(place, key);
}

proptest! {
    #[test]
    fn a_list_edited_anywhere_stays_in_order(edits in prop::collection::vec((any::<usize>(), any::<u64>()), 1..300)) {
        let mut list = Vec::new();
        for (place, random) in edits {
            insert(&mut list, place, random);
        }
        prop_assert!(list.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()), "{list:?}");
    }

    #[test]
    fn a_list_edited_at_its_ends_or_in_one_gap_stays_in_order(
        edits in prop::collection::vec((0..3_usize, any::<u64>()), 1..600)
    ) {
        let mut list = vec!["a0".to_owned(), "a1".to_owned()];
        for (end, random) in edits {
            let place = [0, list.len() / 2, list.len()][end];
            insert(&mut list, place, random);
        }
        prop_assert!(list.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()), "{list:?}");
    }
}

#[test]
fn appending_keeps_keys_short_and_a_worn_out_gap_says_so() {
    let mut last = order_between(None, None, 0).unwrap();
    for step in 0..10_000_u64 {
        last = order_between(Some(&last), None, step.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
    }
    assert!(last.len() <= 10, "{last}");

    let (low, mut high) = ("a0".to_owned(), "a1".to_owned());
    let worn_out = (0..10_000_u64).find_map(|_| match order_between(Some(&low), Some(&high), 0) {
        Ok(key) => {
            high = key;
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(worn_out, Some(OrderError::TooLong));
    assert!(high.len() <= ORDER_KEY_BYTES_MAX);

    let mut high = "a1".to_owned();
    let draws = (1..).map(|step: u64| step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
    let fitted = draws.map_while(|random| {
        high = order_between(Some(&low), Some(&high), random).ok()?;
        Some(())
    });
    assert!(fitted.count() > 1_000);
}

#[test]
fn concurrent_insertions_at_one_place_differ() {
    let keys: std::collections::BTreeSet<String> = (0..1_000_u64)
        .map(|replica| {
            let random = replica.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            order_between(Some("a0"), Some("a1"), random).unwrap()
        })
        .collect();
    assert!(keys.len() > 600, "{}", keys.len());
}

#[test]
fn sql_orders_a_list() {
    let mut site = Site::new(1);
    site.run(
        "CREATE TABLE item(name TEXT PRIMARY KEY, position TEXT);
         INSERT INTO item SELECT 'b', order_between(NULL, min(position)) FROM item;
         INSERT INTO item SELECT 'a', order_between(NULL, min(position)) FROM item;
         INSERT INTO item SELECT 'd', order_between(max(position), NULL) FROM item;
         INSERT INTO item SELECT 'c', order_between(
           (SELECT position FROM item WHERE name = 'b'), (SELECT position FROM item WHERE name = 'd'))",
    );
    let list = "SELECT group_concat(name, '' ORDER BY position) FROM item";
    assert_eq!(site.text(list).as_deref(), Some("abcd"));
    let refused = site
        .replica
        .connection()
        .query_row("SELECT order_between('z', 'a')", [], |_| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("ordering key"));
}
