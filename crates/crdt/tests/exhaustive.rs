//! Every short history of three replicas, against a model that simply remembers every operation.
//!
//! A history is a row of operations with at most one directed sync between two of them. After each
//! step the replica concerned must show what the model says of the operations it has heard of; at
//! the end, every order of delivery must lead to the same state bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;

use anabranch_crdt::{
    ColumnId, ColumnState, HlcClock, MergeKind, Millis, ReplicaId, RowState, Stamp, Value,
};

const REPLICAS: usize = 3;
const A: ColumnId = ColumnId(1);
const B: ColumnId = ColumnId(2);
const COUNT: ColumnId = ColumnId(3);
const LABELS: ColumnId = ColumnId(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Insert,
    UpdateA,
    UpdateB,
    Delete,
    /// Adds to the counter: each operation another power of three, so that sums tell which.
    Count,
    /// Adds the label, and removes it.
    Label,
    Unlabel,
}

const ROWS: &[Kind] = &[Kind::Insert, Kind::UpdateA, Kind::UpdateB, Kind::Delete];
const COLUMNS: &[Kind] = &[Kind::Count, Kind::Label, Kind::Unlabel];

impl Kind {
    fn writes(self, column: ColumnId) -> bool {
        match self {
            Self::Insert => true,
            Self::UpdateA => column == A,
            Self::UpdateB => column == B,
            _ => false,
        }
    }
}

/// An operation as the model remembers it, and as the delta that replicas exchange.
#[derive(Clone, Debug)]
struct Operation {
    kind: Kind,
    stamp: Stamp,
    /// The operations that its replica had heard of, as bits.
    seen: u8,
    delta: RowState,
}

impl Operation {
    /// The value it writes: different for each operation, and not in the order of their stamps.
    fn value(&self) -> Value {
        Value::Integer(-self.stamp.hlc.to_i64() ^ i64::from(self.stamp.replica.0[0]))
    }
}

/// What the model says of a row: whether it is there, its two registers, its counter, and whether its
/// set has the label.
#[derive(Debug, PartialEq)]
struct Shown(bool, Option<Value>, Option<Value>, i64, bool);

#[derive(Clone)]
struct World {
    operations: Vec<Operation>,
    /// The operations that each replica has heard of, as bits.
    heard: [u8; REPLICAS],
    states: [RowState; REPLICAS],
    clocks: [HlcClock; REPLICAS],
    /// What each replica's wall clock says, for ever.
    walls: [Millis; REPLICAS],
}

impl World {
    fn new(walls: [u64; REPLICAS]) -> Self {
        Self {
            operations: Vec::new(),
            heard: [0; REPLICAS],
            states: [const { RowState::new() }; REPLICAS],
            clocks: [HlcClock::default(); REPLICAS],
            walls: walls.map(Millis),
        }
    }

    fn operate(&mut self, replica: usize, kind: Kind) {
        let hlc = self.clocks[replica].tick(self.walls[replica]).unwrap();
        let name = ReplicaId([u8::try_from(replica).unwrap(); 16]);
        let stamp = Stamp::new(hlc, name);
        let seen = self.heard[replica];
        let mut operation = Operation {
            kind,
            stamp,
            seen,
            delta: RowState::live(stamp),
        };
        if kind == Kind::Delete {
            operation.delta = RowState::of_existence(self.states[replica].existence().removal());
        }
        for column in [A, B] {
            if kind.writes(column) {
                operation.delta.set(column, stamp, operation.value());
            }
        }
        if let Some((column, merge, value)) = self.other_write(replica, kind) {
            let held = self.states[replica].clock().column(column);
            let written = merge.write(held, &value, stamp).unwrap();
            operation.delta.set_column(column, written);
        }
        let _ = self.states[replica].merge(&operation.delta);
        self.check_own_write(replica, &operation);
        self.heard[replica] |= 1 << self.operations.len();
        self.operations.push(operation);
    }

    /// The column that is no register that an operation writes, and what it writes there.
    fn other_write(&self, replica: usize, kind: Kind) -> Option<(ColumnId, MergeKind, Value)> {
        let Shown(.., count, _) = shown(&self.states[replica]);
        let amount = 3_i64.pow(u32::try_from(self.operations.len()).unwrap());
        Some(match kind {
            Kind::Count => (COUNT, MergeKind::Counter, Value::Integer(count + amount)),
            Kind::Label => (LABELS, MergeKind::Set, Value::text("[1]")),
            Kind::Unlabel => (LABELS, MergeKind::Set, Value::Null),
            _ => return None,
        })
    }

    /// Whoever writes sees what it wrote, whatever its wall clock says: a stamp lies above all that
    /// its replica has heard of.
    fn check_own_write(&self, replica: usize, operation: &Operation) {
        let Shown(present, a, b, _, labelled) = shown(&self.states[replica]);
        assert_eq!(present, operation.kind != Kind::Delete, "{operation:?}");
        for (column, held) in [(A, a), (B, b)] {
            if operation.kind.writes(column) {
                assert_eq!(held, Some(operation.value()), "{operation:?}");
            }
        }
        match operation.kind {
            Kind::Label => assert!(labelled),
            Kind::Unlabel => assert!(!labelled),
            _ => {}
        }
    }

    fn sync(&mut self, from: usize, to: usize) {
        let (state, clock) = (self.states[from].clone(), self.clocks[from]);
        let _ = self.states[to].merge(&state);
        self.clocks[to].observe(clock.last());
        self.heard[to] |= self.heard[from];
    }

    fn operations(&self, heard: u8) -> impl Iterator<Item = (u8, &Operation)> {
        let bits = (0..).map(|index| 1_u8 << index).zip(&self.operations);
        bits.filter(move |(bit, _)| heard & bit != 0)
    }

    /// Add wins: the row is there if an addition was heard of that no delete heard of had seen.
    /// Last writer wins: a column holds the value of the largest stamp.
    fn model(&self, heard: u8) -> Shown {
        let deletes = || {
            self.operations(heard)
                .filter(|(_, each)| each.kind == Kind::Delete)
        };
        let deleted = deletes().fold(0, |all, (_, delete)| all | delete.seen);
        let mut additions = self
            .operations(heard)
            .filter(|(_, each)| each.kind != Kind::Delete);
        let present = additions.any(|(bit, _)| deleted & bit == 0);
        let latest = |column| {
            let writes = self
                .operations(heard)
                .filter(|(_, each)| each.kind.writes(column));
            writes
                .max_by_key(|(_, write)| write.stamp)
                .map(|(_, write)| write.value())
        };
        let counted = self.operations(heard);
        let counted = counted.filter(|(_, each)| each.kind == Kind::Count);
        let count = counted.map(|(bit, _)| 3_i64.pow(bit.trailing_zeros()));
        let labels = |kind| {
            let each = self.operations(heard);
            each.filter(move |(_, each)| each.kind == kind)
        };
        let unlabelled = labels(Kind::Unlabel).fold(0, |all, (_, each)| all | each.seen);
        let mut labelled = labels(Kind::Label);
        Shown(
            present,
            latest(A),
            latest(B),
            count.sum(),
            labelled.any(|(bit, _)| unlabelled & bit == 0),
        )
    }

    /// The replica shows what the model says, and holds what the deltas it has heard of make.
    fn check(&self, replica: usize) {
        let (state, heard) = (&self.states[replica], self.heard[replica]);
        assert_eq!(shown(state), self.model(heard), "{:#?}", self.operations);
        let mut folded = RowState::new();
        for (_, operation) in self.operations(heard) {
            let _ = folded.merge(&operation.delta);
        }
        assert_eq!(
            folded.to_bytes(),
            state.to_bytes(),
            "{:#?}",
            self.operations
        );
    }

    fn deltas(&self) -> Vec<RowState> {
        self.operations
            .iter()
            .map(|operation| operation.delta.clone())
            .collect()
    }

    /// Whatever is delivered in whatever order, all end the same, and as the model says.
    fn check_convergence(&self) {
        let mut whole = RowState::new();
        for delta in self.deltas() {
            let _ = whole.merge(&delta);
        }
        let all = u8::MAX >> (8 - self.operations.len());
        assert_eq!(shown(&whole), self.model(all), "{:#?}", self.operations);
        let expect = whole.to_bytes();
        for state in &self.states {
            for first in 0..REPLICAS {
                let mut ends = state.clone();
                for step in 0..REPLICAS {
                    let _ = ends.merge(&self.states[(first + step) % REPLICAS]);
                }
                assert_eq!(ends.to_bytes(), expect, "{:#?}", self.operations);
            }
        }
        each_order(&RowState::new(), &self.deltas(), &expect);
    }
}

fn shown(state: &RowState) -> Shown {
    let value = |column| state.value(column).cloned();
    let count = match state.clock().column(COUNT) {
        Some(ColumnState::Counter(counter)) => counter.value(),
        _ => 0,
    };
    let labelled = match state.clock().column(LABELS) {
        Some(ColumnState::Set(labels)) => labels.contains("1"),
        _ => false,
    };
    Shown(
        state.existence().is_present(),
        value(A),
        value(B),
        count,
        labelled,
    )
}

/// Delivers the deltas in every order, each of them twice, and expects the same bytes each time.
fn each_order(state: &RowState, rest: &[RowState], expect: &[u8]) {
    if rest.is_empty() {
        assert_eq!(state.to_bytes(), expect);
    }
    for index in 0..rest.len() {
        let mut later = rest.to_vec();
        let next = later.remove(index);
        let mut after = state.clone();
        let _ = after.merge(&next);
        assert!(!after.merge(&next).changed);
        each_order(&after, &later, expect);
    }
}

struct Search {
    /// What replicas do.
    kinds: &'static [Kind],
    /// How many operations a history has at most.
    operations_max: usize,
    /// Whether replicas only do what SQL lets them: insert what is not there, and update and delete
    /// what is. Otherwise they do anything at any time.
    sensible: bool,
    histories: usize,
    /// The sets of deltas whose every order has been delivered.
    delivered: BTreeSet<Vec<Vec<u8>>>,
}

impl Search {
    fn run(
        kinds: &'static [Kind],
        operations_max: usize,
        sensible: bool,
        walls: [u64; REPLICAS],
    ) -> Self {
        let mut search = Self {
            kinds,
            operations_max,
            sensible,
            histories: 0,
            delivered: BTreeSet::new(),
        };
        search.extend(&World::new(walls));
        search
    }

    fn extend(&mut self, world: &World) {
        if world.operations.len() == self.operations_max {
            return;
        }
        self.operate(world);
        if world.operations.is_empty() {
            return;
        }
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            // A sync that tells nothing new is no other history.
            if world.heard[from] & !world.heard[to] == 0 {
                continue;
            }
            let mut synced = world.clone();
            synced.sync(from, to);
            synced.check(to);
            self.operate(&synced);
        }
    }

    fn operate(&mut self, world: &World) {
        for replica in 0..REPLICAS {
            for kind in self.kinds.iter().copied() {
                let present = world.states[replica].existence().is_present();
                if self.sensible && present == (kind == Kind::Insert) {
                    continue;
                }
                // Writing the set that is there already says nothing.
                let Shown(.., labelled) = shown(&world.states[replica]);
                if labelled && kind == Kind::Label || !labelled && kind == Kind::Unlabel {
                    continue;
                }
                let mut next = world.clone();
                next.operate(replica, kind);
                next.check(replica);
                self.histories += 1;
                let deltas: Vec<_> = next.deltas().iter().map(RowState::to_bytes).collect();
                if self.delivered.insert(deltas) {
                    next.check_convergence();
                }
                self.extend(&next);
            }
        }
    }
}

#[test]
fn replicas_with_one_wall_clock_that_do_what_sql_allows() {
    let search = Search::run(ROWS, 4, true, [1, 1, 1]);
    assert!(search.histories > 10_000, "{}", search.histories);
}

#[test]
fn replicas_with_wrong_wall_clocks_that_do_what_sql_allows() {
    let search = Search::run(ROWS, 4, true, [5, 1, 3]);
    assert!(search.histories > 10_000, "{}", search.histories);
}

#[test]
fn replicas_that_do_anything_at_any_time() {
    let search = Search::run(ROWS, 3, false, [1, 1, 1]);
    assert!(search.histories > 10_000, "{}", search.histories);
    let search = Search::run(ROWS, 3, false, [1, 5, 3]);
    assert!(search.histories > 10_000, "{}", search.histories);
}

#[test]
fn replicas_that_count_and_label() {
    let search = Search::run(COLUMNS, 4, false, [1, 1, 1]);
    assert!(search.histories > 10_000, "{}", search.histories);
    let search = Search::run(COLUMNS, 3, false, [5, 1, 3]);
    assert!(search.histories > 2_000, "{}", search.histories);
}
