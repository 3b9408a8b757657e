//! The example in docs/storage.md is what the codec writes and reads: a change of the format on disk
//! fails here until the document says so.
#![allow(clippy::unwrap_used, missing_docs)]

use anabranch_crdt::{ColumnId, Hlc, HlcError, Millis, ReplicaId, RowClock, Stamp};

#[test]
fn the_example_is_true() -> Result<(), HlcError> {
    let inserted = Stamp::new(
        Hlc::new(Millis(1_790_000_000_000), 0)?,
        ReplicaId([0xa1; 16]),
    );
    let updated = Stamp::new(
        Hlc::new(Millis(1_790_000_000_500), 2)?,
        ReplicaId([0xb2; 16]),
    );
    let mut clock = RowClock::uniform([ColumnId(2), ColumnId(3), ColumnId(4)], inserted);
    clock.set(ColumnId(3), updated);
    clock.existence.add(updated);

    let mut bytes = documented_bytes();
    assert_eq!(clock.encode(), bytes);
    assert_eq!(RowClock::decode(&bytes), Ok(clock.clone()));

    clock.existence.merge(&clock.existence.removal());
    let entries = bytes.split_off(bytes.len() - 2);
    assert_eq!(entries, [0x04, 0x02]);
    bytes.extend([0x05, 0x03]);
    assert_eq!(clock.encode(), bytes);
    Ok(())
}

#[test]
fn the_short_ones_are_true() {
    assert_eq!(RowClock::new().encode(), [1, 0, 0]);
    let untouched = RowClock::uniform([ColumnId(2), ColumnId(9)], Stamp::GENESIS);
    let text = DOCUMENT
        .rsplit_once("clock reading 0: `")
        .unwrap()
        .1
        .split('`')
        .next()
        .unwrap();
    assert_eq!(untouched.encode(), hex(text));
}

/// The first column of the example's table: all that is in backticks there.
fn documented_bytes() -> Vec<u8> {
    let example = DOCUMENT.split_once("### Example").unwrap().1;
    let example = example.split("\n#").next().unwrap();
    let rows = example.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    hex(&cells.collect::<String>())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit.try_into().unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit))
        .collect()
}

const DOCUMENT: &str = include_str!("../docs/storage.md");
