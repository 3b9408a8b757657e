//! The rows that are merged: a UUID key and four columns of text, and what may happen to them.

use anabranch_crdt::{ColumnId, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value};
use anabranch_protocol::{Change, SubscriptionSet};
use anabranch_shape::schema::{Column, ColumnType, Schema, Table};

pub(super) const TABLE: TableId = TableId(1);
/// The columns beside the key.
pub(super) const COLUMNS: std::ops::Range<u16> = 2..6;

/// Random keys, the same in every run: the order in which rows come is random, as the keys are.
pub(super) fn keys(count: usize) -> Vec<String> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count)
        .map(|_| uuid(random(&mut seed), random(&mut seed)))
        .collect()
}

/// Keys that order as they come.
pub(super) fn ordered_keys(count: usize) -> Vec<String> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count)
        .zip(0_u64..)
        .map(|(_, at)| uuid((0x19_0000_0000 + at) << 20, random(&mut seed)))
        .collect()
}

/// The same in another order, as far from theirs as can be.
pub(super) fn shuffled<T: Clone + Ord>(items: &[T]) -> Vec<T> {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut places: Vec<(u64, &T)> = items.iter().map(|item| (random(&mut seed), item)).collect();
    places.sort_unstable();
    places.into_iter().map(|(_, item)| item.clone()).collect()
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn uuid(a: u64, b: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// What comes in of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// All columns, at this time.
    Row(u64),
    /// All columns, of every second row at the first time and of the others at the second.
    Half(u64, u64),
    /// One column, at this time.
    Column(u64),
    /// A delete of what was written at the first time.
    Delete(u64),
    /// Another writer's turn: writes one column and adds the row.
    Writer(u8),
}

/// When all rows are there, so that later and earlier are on either side.
pub(super) const HELD: u64 = 1000;

/// The changes of a batch of keys.
pub(super) fn changes(keys: &[String], what: What) -> Vec<Change> {
    keys.iter()
        .enumerate()
        .map(|(at, key)| Change {
            table: TABLE,
            key: RowKey(vec![Value::text(key)]),
            shapes: SubscriptionSet(1),
            state: state(at, key, what),
        })
        .collect()
}

fn state(at: usize, key: &str, what: What) -> RowState {
    match what {
        What::Row(ms) => written(key, stamp(ms, WRITER), COLUMNS),
        What::Half(one, other) if at.is_multiple_of(2) => {
            written(key, stamp(one.min(other), WRITER), COLUMNS)
        }
        What::Half(one, other) => written(key, stamp(one.max(other), WRITER), COLUMNS),
        What::Column(ms) => written(key, stamp(ms, WRITER), 2..3),
        What::Delete(ms) => {
            RowState::of_existence(RowState::live(stamp(ms, WRITER)).existence().removal())
        }
        What::Writer(writer) => {
            let column = COLUMNS.start + u16::from(writer) % 4;
            let stamp = stamp(HELD + u64::from(writer), writer);
            written(key, stamp, column..column + 1)
        }
    }
}

fn written(key: &str, stamp: Stamp, columns: std::ops::Range<u16>) -> RowState {
    let mut state = RowState::live(stamp);
    let start = key.get(..8).unwrap_or(key);
    for column in columns {
        let value = format!("{column} of {start}");
        state.set(ColumnId(column), stamp, Value::Text(value));
    }
    state
}

const WRITER: u8 = 200;

pub(super) fn stamp(ms: u64, writer: u8) -> Stamp {
    let hlc = Hlc::new(Millis(ms), 0).unwrap_or(Hlc::ZERO);
    Stamp::new(hlc, ReplicaId([writer; 16]))
}

/// The schema of the one table.
pub(super) fn schema() -> Schema {
    let column = |id: u16| Column {
        id: ColumnId(id),
        name: format!("c{id}"),
        kind: if id == 1 {
            ColumnType::Uuid
        } else {
            ColumnType::Text
        },
        declared_type: "text".to_owned(),
        nullable: id != 1,
        has_default: false,
        bytewise_order: true,
        merge: Default::default(),
    };
    let table = Table {
        id: TABLE,
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        columns: (1..COLUMNS.end).map(column).collect(),
        primary_key: vec![ColumnId(1)],
        foreign_keys: Vec::new(),
        delete: Default::default(),
    };
    Schema {
        version: 1,
        tables: vec![table],
    }
}
