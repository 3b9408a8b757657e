//! Compares all sides: rows as any program reads them, and CRDT states byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{ColumnId, Delta, RowKey, RowState, TableId, Value};
use anabranch_replica::tables::values::from_sql;
use anabranch_shape::{Shape, schema::Table};
use anabranch_store::SnapshotQuery;
use rusqlite::{Connection, OpenFlags};

use super::{Stage, editor::Editor, plan::PlannedShape};
use crate::{failure::Failure, print::literal};

/// What differs between the store and the replicas, as far as is worth printing.
pub(super) async fn differences(stage: &mut Stage) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for index in 0..stage.shapes.len() {
        let Some(shape) = stage.shapes.get(index).cloned() else {
            break;
        };
        let Some(table) = stage.schema.table_named(&shape.table).cloned() else {
            return Err(Failure::new(format!(
                "the store has no table {}",
                shape.table
            )));
        };
        rows_differ(stage, &table, &shape, &mut found)?;
        states_differ(stage, &table, &shape, &mut found).await?;
        if found.len() >= SHOWN_MAX {
            break;
        }
    }
    found.truncate(SHOWN_MAX);
    Ok(found)
}

/// Compares what a plain `SELECT` gives in the store and in each replica's file, read through
/// connections that Anabranch has no hand in.
fn rows_differ(
    stage: &Stage,
    table: &Table,
    shape: &PlannedShape,
    found: &mut Vec<String>,
) -> Result<(), Failure> {
    let rows = stage.world.select(table, shape.condition().as_deref())?;
    let stored: BTreeSet<Vec<Value>> = rows.into_iter().collect();
    for editor in &stage.editors {
        let held = select_local(editor, table)?;
        let name = table.local_name();
        let missing = stored
            .difference(&held)
            .map(|row| ("only the store has", row));
        let extra = held
            .difference(&stored)
            .map(|row| ("the store has not", row));
        found.extend(missing.chain(extra).take(SHOWN_MAX).map(|(what, row)| {
            let values: Vec<String> = row.iter().map(literal).collect();
            format!("{}, {name}: {what} ({})", editor.name, values.join(", "))
        }));
    }
    Ok(())
}

fn select_local(editor: &Editor, table: &Table) -> Result<BTreeSet<Vec<Value>>, Failure> {
    let failed =
        |error: rusqlite::Error| Failure::new(format!("{}: {error}", editor.path.display()));
    let file = Connection::open_with_flags(&editor.path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    select_sqlite(&file.map_err(failed)?, &table.local_name(), table, None).map_err(failed)
}

/// The rows of a table of a SQLite file.
pub(super) fn select_sqlite(
    file: &Connection,
    name: &str,
    table: &Table,
    condition: Option<&str>,
) -> Result<BTreeSet<Vec<Value>>, rusqlite::Error> {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| quoted(&column.name))
        .collect();
    let condition = condition
        .map(|condition| format!(" WHERE {condition}"))
        .unwrap_or_default();
    let sql = format!(
        "SELECT {} FROM {}{condition}",
        columns.join(", "),
        quoted(name)
    );
    let mut query = file.prepare(&sql)?;
    let rows = query.query_map([], |row| {
        (0..columns.len())
            .map(|index| row.get_ref(index).map(from_sql))
            .collect()
    })?;
    rows.collect()
}

/// Compares the CRDT states: registers, stamps, existence.
async fn states_differ(
    stage: &mut Stage,
    table: &Table,
    shape: &PlannedShape,
    found: &mut Vec<String>,
) -> Result<(), Failure> {
    let filter = Shape::define(
        &stage.schema,
        &shape.table,
        shape.filter.as_deref(),
        &[],
        &shape.parameters,
    );
    let filter = filter.map_err(Failure::of)?;
    let in_shape = |delta: &Delta| filter.contains(&delta.key, &delta.state, table);
    let stored = snapshot(stage, table).await?.into_iter().filter(in_shape);
    let stored: BTreeMap<RowKey, Vec<u8>> = stored
        .map(|delta| (delta.key, delta.state.to_bytes()))
        .collect();
    for editor in &mut stage.editors {
        let name = table.local_name();
        let held = editor.with(|replica| Ok(replica.row_states(&name)?))?;
        let present = held
            .into_iter()
            .filter(|(_, state)| state.existence().is_present());
        let held: BTreeMap<RowKey, Vec<u8>> = present
            .map(|(key, state)| (key, state.to_bytes()))
            .collect();
        let keys: BTreeSet<&RowKey> = stored.keys().chain(held.keys()).collect();
        let differ = keys
            .into_iter()
            .filter(|key| stored.get(*key) != held.get(*key));
        found.extend(differ.take(SHOWN_MAX).map(|key| {
            let key: Vec<String> = key.0.iter().map(literal).collect();
            format!(
                "{}, {name} {}: another state than the store's",
                editor.name,
                key.join(", ")
            )
        }));
    }
    Ok(())
}

/// Every row of a table, with its clocks, as the store gives it.
async fn snapshot(stage: &Stage, table: &Table) -> Result<Vec<Delta>, Failure> {
    let columns: Vec<ColumnId> = table.registers().map(|column| column.id).collect();
    let query = SnapshotQuery {
        table: table.id,
        filter: None,
        columns,
    };
    let mut snapshot = stage.store.snapshot(query).await.map_err(Failure::of)?;
    let mut rows = Vec::new();
    while let Some(chunk) = snapshot.chunks.recv().await {
        rows.extend(chunk.map_err(Failure::of)?);
    }
    Ok(rows)
}

/// One row as the store has it; `None` if it is not there.
pub(super) async fn stored_row(
    stage: &Stage,
    table: &Table,
    key: &RowKey,
) -> Result<Option<RowState>, Failure> {
    let rows = snapshot(stage, table).await?;
    let row = rows.into_iter().find(|delta| delta.key == *key);
    Ok(row.map(|delta| delta.state))
}

/// Counts the rows that every side holds.
pub(super) fn count_rows(stage: &Stage) -> Result<usize, Failure> {
    let tables: BTreeSet<TableId> = stage
        .shapes
        .iter()
        .filter_map(|shape| stage.schema.table_named(&shape.table))
        .map(|table| table.id)
        .collect();
    let mut rows = 0;
    for table in tables.into_iter().filter_map(|id| stage.schema.table(id)) {
        let [ann, _] = &stage.editors;
        rows += select_local(ann, table)?.len();
    }
    Ok(rows)
}

/// An identifier for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Differences worth printing: the first few tell what is wrong.
const SHOWN_MAX: usize = 10;
