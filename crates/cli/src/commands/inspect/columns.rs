//! What `inspect` shows of counters and sets: who added how much, which element is there since when.

use anabranch_crdt::{ColumnState, Counter, ElementSet, Existence, Life, ReplicaId, RowState};
use anabranch_shape::{MergeKind, schema::Table};
use serde_json::{Map, Value as Json, json};

use crate::print::{author, json_stamp, json_value, plain, reading, table as columns};

/// A row's counters and sets, for people; nothing if it has none.
pub(super) fn text(table: &Table, state: &RowState, here: ReplicaId) -> String {
    let mut text = String::new();
    for (id, other) in state.clock().columns() {
        let name = table.column(*id).map_or("?", |column| &column.name);
        let (heads, lines) = match other {
            ColumnState::Counter(counter) => (["share", "through", "by"], shares(counter, here)),
            ColumnState::Set(set) => (["element", "added", "by"], elements(set, here)),
        };
        let kind = other.kind().word();
        text.push_str(&format!("{kind} {name}: {}\n", plain(other.shown())));
        text.push_str(&columns(&heads, &lines));
        text.push('\n');
    }
    text
}

fn shares(counter: &Counter, here: ReplicaId) -> Vec<Vec<String>> {
    let totals = counter.totals().iter();
    let totals = totals.map(|total| (total.sum, total.through, ""));
    let open = counter.increments().iter();
    let open = open.map(|open| (open.amount, open.stamp, " (pending)"));
    let line = |(number, stamp, note): (i64, anabranch_crdt::Stamp, &str)| {
        vec![
            format!("{number:+}{note}"),
            reading(stamp.hlc),
            author(stamp.replica, Some(here)),
        ]
    };
    totals.chain(open).map(line).collect()
}

fn elements(set: &ElementSet, here: ReplicaId) -> Vec<Vec<String>> {
    let lines = set.elements().iter().flat_map(|element| {
        element.existence.entries().iter().map(move |entry| {
            let removed = match entry.life {
                Life::Live => "",
                Life::Removed => " (removed)",
            };
            vec![
                format!("{}{removed}", element.text),
                reading(entry.stamp.hlc),
                author(entry.stamp.replica, Some(here)),
            ]
        })
    });
    lines.collect()
}

/// The same for programs, by column.
pub(super) fn json(table: &Table, state: &RowState) -> Json {
    let column = |(id, other): &(anabranch_crdt::ColumnId, ColumnState)| {
        let name = table.column(*id).map_or("?", |column| &column.name);
        let mut content = match other {
            ColumnState::Counter(counter) => counter_json(counter),
            ColumnState::Set(set) => set_json(set),
        };
        content.insert("kind".to_owned(), json!(other.kind().word()));
        content.insert("value".to_owned(), json_value(other.shown()));
        (name.to_owned(), Json::Object(content))
    };
    let all: Map<String, Json> = state.clock().columns().iter().map(column).collect();
    Json::Object(all)
}

fn counter_json(counter: &Counter) -> Map<String, Json> {
    let share = |number: i64, stamp| json!({ "number": number, "stamp": json_stamp(stamp) });
    let totals = counter.totals().iter();
    let totals: Json = totals
        .map(|total| share(total.sum, total.through))
        .collect();
    let open = counter.increments().iter();
    let open: Json = open.map(|open| share(open.amount, open.stamp)).collect();
    Map::from_iter([("totals".to_owned(), totals), ("pending".to_owned(), open)])
}

fn set_json(set: &ElementSet) -> Map<String, Json> {
    let elements: Json = set
        .elements()
        .iter()
        .map(|element| json!({ "element": element.text, "existence": existence_json(&element.existence) }))
        .collect();
    Map::from_iter([("elements".to_owned(), elements)])
}

/// The entries of an existence, for programs.
pub(super) fn existence_json(existence: &Existence) -> Json {
    let entry = |entry: &anabranch_crdt::Entry| {
        json!({
            "stamp": json_stamp(entry.stamp),
            "live": entry.life == Life::Live,
        })
    };
    existence.entries().iter().map(entry).collect()
}

/// What a transaction does to a row's counters and sets, in words.
pub(super) fn writes(table: Option<&Table>, state: &RowState) -> Vec<String> {
    let mut writes = Vec::new();
    for (id, other) in state.clock().columns() {
        let known = table.and_then(|table| table.column(*id));
        let name = known.map_or("?", |column| &column.name);
        match other {
            ColumnState::Counter(counter) => {
                writes.push(format!("{name} {:+}", counter.value()));
            }
            ColumnState::Set(set) => {
                let sign = |present| if present { '+' } else { '-' };
                let changes = set.elements().iter();
                let changes = changes.map(|element| {
                    format!("{}{}", sign(element.existence.is_present()), element.text)
                });
                let changes: Vec<String> = changes.collect();
                writes.push(format!("{name} {{{}}}", changes.join(", ")));
            }
        }
    }
    writes
}

/// The columns of a table that are no registers, by kind.
pub(super) fn kinds(table: &Table) -> Vec<(&str, &'static str)> {
    let others = table.columns.iter();
    let others = others.filter(|column| column.merge != MergeKind::Register);
    others
        .map(|column| (column.name.as_str(), column.merge.word()))
        .collect()
}
