//! The merge is a join, whatever it is given: commutative, associative, idempotent, the same for a
//! delta as for a state. Equality is of state bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use anabranch_crdt::{
    ColumnId, ColumnState, Counter, Element, ElementSet, Entry, Existence, Hlc, Increment, Life,
    Millis, ReplicaId, RowClock, RowState, Stamp, Total, Value, elements_of, merge, merge_first,
};
use proptest::{collection::vec, prelude::*};

/// Stamps from so few that equal ones meet, as only a replica that breaks the rules would make.
fn stamp() -> impl Strategy<Value = Stamp> {
    let replica = prop_oneof![4 => (1_u8..4).prop_map(|id| ReplicaId([id; 16])), 1 => Just(ReplicaId::SERVER)];
    (0_u64..4, 0_u16..2, replica).prop_map(|(time, counter, replica)| {
        Stamp::new(Hlc::new(Millis(time), counter).unwrap(), replica)
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (-2_i64..3).prop_map(Value::Integer),
        prop_oneof![Just(-1.5), Just(0.0), Just(f64::NAN)].prop_map(Value::real),
        "[ab]{0,2}".prop_map(Value::Text),
        vec(0_u8..2, 0..3).prop_map(Value::Blob),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (stamp(), prop_oneof![Just(Life::Live), Just(Life::Removed)])
        .prop_map(|(stamp, life)| Entry { stamp, life })
}

fn existence() -> impl Strategy<Value = Existence> {
    vec(entry(), 0..4).prop_map(|entries| entries.into_iter().collect())
}

fn amount() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![8 => -3_i64..4, 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
}

/// Amounts of which a few add up to less than half of what a counter can hold.
fn some() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![8 => -3_i64..4, 1 => Just(i64::MAX / 32), 1 => Just(i64::MIN / 32)]
}

fn counter() -> impl Strategy<Value = Counter> {
    counter_of(amount())
}

fn counter_of(
    amount: impl Strategy<Value = i64> + Clone + 'static,
) -> impl Strategy<Value = Counter> {
    let total = (stamp(), amount.clone()).prop_map(|(through, sum)| Total { through, sum });
    let increment = (stamp(), amount).prop_map(|(stamp, amount)| Increment { stamp, amount });
    (vec(total, 0..3), vec(increment, 0..4))
        .prop_map(|(totals, increments)| Counter::of(totals, increments))
}

fn set() -> impl Strategy<Value = ElementSet> {
    let element = ("[1-5]", existence());
    let element = element.prop_map(|(text, existence)| Element { text, existence });
    vec(element, 0..5).prop_map(ElementSet::of)
}

/// Of either kind, mostly each column of its own.
fn other_column() -> impl Strategy<Value = (ColumnId, ColumnState)> {
    let counters = prop_oneof![8 => 10_u16..12, 1 => Just(20)].prop_map(ColumnId);
    let sets = prop_oneof![8 => 12_u16..14, 1 => Just(20)].prop_map(ColumnId);
    prop_oneof![
        (counters, counter().prop_map(ColumnState::Counter)),
        (sets, set().prop_map(ColumnState::Set)),
    ]
}

/// A row state, or a delta: they are the same.
fn state() -> impl Strategy<Value = RowState> {
    let column =
        prop_oneof![8 => 1_u16..6, 1 => Just(1600), 1 => Just(u16::MAX)].prop_map(ColumnId);
    let cells = vec((column, stamp(), value()), 0..6);
    let columns = prop_oneof![1 => Just(vec![]), 1 => vec(other_column(), 0..4)];
    (cells, columns, existence()).prop_map(|(cells, columns, existence)| {
        let mut state = RowState::of_existence(existence);
        for (column, stamp, value) in cells {
            state.set(column, stamp, value);
        }
        for (column, other) in columns {
            state.set_column(column, other);
        }
        state
    })
}

fn joined<'a>(states: impl IntoIterator<Item = &'a RowState>) -> RowState {
    let mut whole = RowState::new();
    for state in states {
        let _ = whole.merge(state);
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn commutative(a in state(), b in state()) {
        prop_assert_eq!(joined([&a, &b]).to_bytes(), joined([&b, &a]).to_bytes());
    }

    #[test]
    fn associative(a in state(), b in state(), c in state()) {
        let left = joined([&joined([&a, &b]), &c]);
        let right = joined([&a, &joined([&b, &c])]);
        prop_assert_eq!(left.to_bytes(), right.to_bytes());
    }

    #[test]
    fn idempotent(a in state(), b in state()) {
        let once = joined([&a, &b]);
        let mut twice = once.clone();
        let merged = twice.merge(&b);
        prop_assert!(!merged.changed && merged.won.is_empty());
        prop_assert_eq!(once.to_bytes(), twice.to_bytes());
    }

    #[test]
    fn the_larger_stamp_wins_and_at_an_equal_one_the_larger_value(
        (a, b) in ((stamp(), value()), (stamp(), value())),
    ) {
        let of = |(stamp, value): &(Stamp, Value)| {
            let mut state = RowState::new();
            state.set(ColumnId(1), *stamp, value.clone());
            state
        };
        prop_assert_eq!(joined([&of(&a), &of(&b)]), of((&a).max(&b)));
    }

    #[test]
    fn folding_deltas_is_merging_states(
        deltas in vec(state(), 1..8).prop_flat_map(|deltas| {
            let count = deltas.len();
            (Just(deltas.clone()), Just(deltas).prop_shuffle(), vec(0..count, 0..4), 0..count)
        }),
    ) {
        let (deltas, shuffled, duplicates, cut) = deltas;
        let again = duplicates.iter().filter_map(|index| deltas.get(*index));
        let folded = joined(shuffled.iter().chain(again));
        let (early, late) = deltas.split_at(cut);
        let states = joined([&joined(early), &joined(late)]);
        prop_assert_eq!(folded.to_bytes(), states.to_bytes());
    }

    #[test]
    fn a_merge_tells_what_it_did(a in state(), b in state()) {
        let mut after = a.clone();
        let merged = after.merge(&b);
        prop_assert_eq!(merged.changed, after.to_bytes() != a.to_bytes());
        prop_assert_eq!(merged.was_present, a.existence().is_present());
        prop_assert_eq!(merged.is_present, after.existence().is_present());
        for (column, stamp, value) in after.cells() {
            let before = a.clock().register(column).map(|held| (held, a.value(column).unwrap()));
            prop_assert_eq!(merged.won.contains(&column), before != Some((stamp, value)));
        }
        for (column, other) in after.clock().columns() {
            prop_assert_eq!(merged.won.contains(column), a.value(*column) != Some(other.shown()));
        }
    }

    #[test]
    fn the_first_merge_into_a_row_takes_what_comes(a in state()) {
        let mut clock = RowClock::new();
        let merged = merge(&mut clock, &a, |_, _| std::cmp::Ordering::Equal);
        prop_assert_eq!(merge_first(&a), merged);
        prop_assert_eq!(&clock, a.clock());
    }

    #[test]
    fn merging_clocks_apart_from_values_is_the_same_merge(a in state(), b in state()) {
        let mut values: BTreeMap<ColumnId, Value> =
            a.cells().map(|(column, _, value)| (column, value.clone())).collect();
        let mut clock = a.clock().clone();
        let merged = merge(&mut clock, &b, |column, incoming| values[&column].cmp(incoming));
        for column in merged.won.iter().filter(|column| clock.column(**column).is_none()) {
            values.insert(*column, b.value(*column).unwrap().clone());
        }
        let mut whole = a;
        prop_assert_eq!(&whole.merge(&b), &merged);
        prop_assert_eq!(whole.clock(), &clock);
        let held: BTreeMap<ColumnId, Value> =
            whole.cells().map(|(column, _, value)| (column, value.clone())).collect();
        prop_assert_eq!(held, values);
    }

    #[test]
    fn equal_bytes_mean_equal_states(a in state(), b in state()) {
        prop_assert_eq!(a.to_bytes() == b.to_bytes(), a == b);
    }

    #[test]
    fn a_packed_clock_comes_back_whole(a in state()) {
        prop_assert_eq!(RowClock::decode(&a.clock().encode()), Ok(a.clock().clone()));
    }

    #[test]
    fn a_packed_clock_cut_short_or_lengthened_is_refused(a in state(), cut in any::<prop::sample::Index>()) {
        let mut bytes = a.clock().encode();
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert!(RowClock::decode(short).is_err());
        bytes.push(0);
        prop_assert!(RowClock::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), known_form: bool) {
        if let (true, Some(form)) = (known_form, bytes.first_mut()) {
            *form = 2 - *form % 2;
        }
        if let Ok(clock) = RowClock::decode(&bytes) {
            prop_assert_eq!(RowClock::decode(&clock.encode()), Ok(clock));
        }
    }

    #[test]
    fn damaged_bytes_never_panic(a in state(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = a.clock().encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(clock) = RowClock::decode(&bytes) {
            prop_assert_eq!(RowClock::decode(&clock.encode()), Ok(clock));
        }
    }

    #[test]
    fn a_removal_takes_what_it_saw_and_no_more(seen in vec(entry(), 0..4), unseen in stamp()) {
        let seen: Existence = seen.into_iter().collect();
        let mut after = seen.clone();
        after.merge(&seen.removal());
        prop_assert!(!after.is_present());
        let newer = seen.newest().is_none_or(|newest| unseen.hlc > newest);
        after.add(unseen);
        prop_assert!(!newer || after.is_present());
    }

    #[test]
    fn a_counter_shows_the_sum_of_its_parts(held in counter()) {
        let totals = held.totals().iter().map(|total| i128::from(total.sum));
        let open = held.increments().iter().map(|increment| i128::from(increment.amount));
        let sum = totals.chain(open).sum::<i128>();
        let clamped = i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX });
        prop_assert_eq!(held.value(), clamped);
    }

    #[test]
    fn a_write_over_a_column_shows_what_was_written(
        counter in counter_of(some()), set in set(), to in -9_i64..9, texts in vec(1_u8..6, 0..4), at in 5_u64..9,
    ) {
        let stamp = Stamp::new(Hlc::new(Millis(at), 0).unwrap(), ReplicaId([1; 16]));
        let mut after = counter.clone();
        after.merge(&counter.write(to, stamp));
        prop_assert_eq!(after.value(), to);
        let written = Value::Text(format!("{texts:?}"));
        let mut after = set.clone();
        after.merge(&set.write(&written, stamp));
        prop_assert_eq!(elements_of(after.shown()), elements_of(&written));
        prop_assert!(set.write(set.shown(), stamp).elements().is_empty());
    }

    #[test]
    fn what_is_refused_goes_and_nothing_else(
        held in vec(increment_by_own_stamp(), 0..5), refused in 0_usize..5,
    ) {
        let held = Counter::of([], held);
        let refused: Vec<Increment> = held.increments().iter().skip(refused).take(1).copied().collect();
        let kept: Vec<Increment> =
            held.increments().iter().filter(|each| !refused.contains(each)).copied().collect();
        prop_assert_eq!(held.without(&Counter::of([], refused)), Counter::of([], kept));
    }

    #[test]
    fn settling_changes_no_value_and_settles_each_increment_once(held in vec(increment_by_own_stamp(), 0..5)) {
        let mut store = Counter::new();
        for increment in &held {
            store.merge(&Counter::of([], [*increment]));
            store.settle();
        }
        prop_assert!(store.increments().is_empty());
        prop_assert_eq!(store.value(), held.iter().map(|increment| increment.amount).sum::<i64>());
        // What the store tells makes the replica's own increments fall away.
        let mut replica = Counter::of([], held.clone());
        replica.merge(&store);
        prop_assert_eq!(&replica, &store);
        prop_assert!(!store.merge(&Counter::of([], held)));
    }

    #[test]
    fn a_plain_write_in_the_store_is_its_share(mut held in counter_of(-9_i64..9), to in -9_i64..9, at in stamp()) {
        let others = held.clone();
        held.imply(at, to);
        prop_assert_eq!(held.value(), to);
        held.imply(at, to);
        prop_assert_eq!(held.value(), to);
        for total in others.totals().iter().filter(|total| total.through.replica != at.replica) {
            prop_assert!(held.totals().contains(total));
        }
    }
}

/// Increments in the order in which their replicas made them.
fn increment_by_own_stamp() -> impl Strategy<Value = Increment> {
    let next = std::sync::atomic::AtomicU64::new(1);
    let replica = (1_u8..3).prop_map(|id| ReplicaId([id; 16]));
    (replica, -9_i64..9).prop_map(move |(replica, amount)| {
        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let stamp = Stamp::new(Hlc::new(Millis(at), 0).unwrap(), replica);
        Increment { stamp, amount }
    })
}
