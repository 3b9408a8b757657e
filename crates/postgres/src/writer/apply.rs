//! Writes merged rows back: clocks and tombstones first, then the rows themselves, so that whatever
//! the application's own triggers and foreign keys do in their wake lies on top.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{ColumnId, MergeKind, TableId, Value, elements_of};
use anabranch_protocol::RejectCode;
use anabranch_shape::schema::Table;
use tokio_postgres::{Row, types::ToSql};

use super::batch::{Batch, MergedRow, TableBatch};
use crate::{
    catalog::{Catalog, PgTable, field, quote, table_number},
    errors::{Failure, Refusal},
    limits,
    pool::Work,
    rows::{self, KeyColumns, TextKey},
    values,
};

/// In which order rows are written. Foreign keys want deletes last; a unique value that moves from a
/// deleted row to a new one wants them first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    DeletesLast,
    DeletesFirst,
}

/// Rows of one table for which the same columns are written.
type Group<'b> = Vec<(&'b TextKey, &'b MergedRow)>;

/// Writes everything that the merge has changed.
pub(crate) async fn write(
    work: &mut Work<'_>,
    catalog: &Catalog,
    batch: &Batch<'_>,
    order: Order,
    attempt: u32,
) -> Result<(), Failure> {
    write_clocks(work, batch).await?;
    write_tombstones(work, batch).await?;

    let parents_first = catalog.parents_first();
    if order == Order::DeletesFirst {
        delete_all(work, batch, &parents_first).await?;
    }
    for table in tables(batch, parents_first.iter()) {
        for (columns, rows) in groups(table, inserted_columns) {
            insert(work, table.table, &columns, &rows, attempt).await?;
        }
    }
    for table in tables(batch, parents_first.iter()) {
        for (columns, rows) in groups(table, updated_columns) {
            update(work, table.table, &columns, &rows).await?;
        }
    }
    if order == Order::DeletesLast {
        delete_all(work, batch, &parents_first).await?;
    }
    Ok(())
}

fn tables<'b>(
    batch: &'b Batch<'b>,
    order: impl Iterator<Item = &'b TableId>,
) -> impl Iterator<Item = &'b TableBatch<'b>> {
    order.filter_map(|id| batch.tables.get(id))
}

/// Writes the clocks, which also folds what SQL writers did into them.
pub(crate) async fn write_clocks(work: &mut Work<'_>, batch: &Batch<'_>) -> Result<(), Failure> {
    const UPDATE: &str = "
        update anabranch.clocks c
        set clock = u.clock, newest = u.newest, server = null, server_live = null,
            server_removed = false, swept = false, removed = null
        from unnest($1::int[], $2::text[], $3::bytea[], $4::bigint[])
            as u (table_id, key, clock, newest)
        where c.table_id = u.table_id and c.key = u.key";
    const INSERT: &str = "
        insert into anabranch.clocks (table_id, key, clock, newest)
        select * from unnest($1::int[], $2::text[], $3::bytea[], $4::bigint[])
        on conflict do nothing";
    for (had_clock, sql) in [(true, UPDATE), (false, INSERT)] {
        let (mut numbers, mut keys, mut clocks, mut newest) = (vec![], vec![], vec![], vec![]);
        for (id, table) in &batch.tables {
            let number = table_number(*id)?;
            let rows = table.rows.iter();
            for (key, row) in rows.filter(|(_, row)| row.changed && row.had_clock == had_clock) {
                numbers.push(number);
                keys.push(key.text.as_str());
                clocks.push(row.clock.encode());
                newest.push(row.clock.newest().to_i64());
            }
        }
        if keys.is_empty() {
            continue;
        }
        let written = work
            .execute(sql, &[&numbers, &keys, &clocks, &newest])
            .await?;
        if usize::try_from(written) != Ok(keys.len()) {
            return Err(Failure::Busy(
                "a row came while it was being merged".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Keeps the values of rows that are not in their table, so that one that comes back is whole.
async fn write_tombstones(work: &mut Work<'_>, batch: &Batch<'_>) -> Result<(), Failure> {
    const BURY: &str = "
        insert into anabranch.tombstones (table_id, key, cells)
        select u.table_id, u.key, u.cells::text[]
        from unnest($1::int[], $2::text[], $3::text[]) as u (table_id, key, cells)
        on conflict (table_id, key) do update
        set cells = excluded.cells, buried = excluded.buried";
    const REVIVE: &str = "
        delete from anabranch.tombstones t
        using unnest($1::int[], $2::text[]) as u (table_id, key)
        where t.table_id = u.table_id and t.key = u.key";
    let (mut numbers, mut keys, mut cells) = (vec![], vec![], vec![]);
    let (mut revived_numbers, mut revived_keys) = (vec![], vec![]);
    for (id, table) in &batch.tables {
        let number = table_number(*id)?;
        for (key, row) in table.rows.iter().filter(|(_, row)| row.changed) {
            if !row.is_present() {
                numbers.push(number);
                keys.push(key.text.as_str());
                cells.push(array_literal(&row.values));
            } else if !row.was_present && row.had_clock {
                revived_numbers.push(number);
                revived_keys.push(key.text.as_str());
            }
        }
    }
    if !keys.is_empty() {
        work.execute(BURY, &[&numbers, &keys, &cells]).await?;
    }
    if !revived_keys.is_empty() {
        work.execute(REVIVE, &[&revived_numbers, &revived_keys])
            .await?;
    }
    Ok(())
}

/// The rows of a table by the columns that are to be written, where there is something to write.
fn groups<'b>(
    table: &'b TableBatch<'_>,
    columns: impl Fn(&PgTable, &MergedRow) -> Option<BTreeSet<ColumnId>>,
) -> BTreeMap<BTreeSet<ColumnId>, Group<'b>> {
    let mut groups: BTreeMap<_, Group<'b>> = BTreeMap::new();
    for (key, row) in table.rows.iter().filter(|(_, row)| row.changed) {
        if let Some(columns) = columns(table.table, row) {
            groups.entry(columns).or_default().push((key, row));
        }
    }
    groups
}

/// The columns of a row that comes into its table: those that anybody has ever written.
fn inserted_columns(table: &PgTable, row: &MergedRow) -> Option<BTreeSet<ColumnId>> {
    let known = |id: &ColumnId| row.clock.knows(*id) && row.values.contains_key(id);
    (row.is_present() && !row.was_present).then(|| {
        table
            .table
            .registers()
            .map(|column| column.id)
            .filter(known)
            .collect()
    })
}

/// The columns of a row in its table whose values change.
fn updated_columns(_: &PgTable, row: &MergedRow) -> Option<BTreeSet<ColumnId>> {
    if !(row.is_present() && row.was_present) {
        return None;
    }
    let changed =
        |(id, value): (&ColumnId, &Value)| (row.held.get(id) != Some(value)).then_some(*id);
    let columns: BTreeSet<ColumnId> = row.values.iter().filter_map(changed).collect();
    (!columns.is_empty()).then_some(columns)
}

async fn insert(
    work: &mut Work<'_>,
    table: &PgTable,
    columns: &BTreeSet<ColumnId>,
    rows: &Group<'_>,
    attempt: u32,
) -> Result<(), Failure> {
    let keys: Vec<String> = table
        .table
        .key_columns()
        .map(|column| quote(&column.name))
        .collect();
    let targets = keys
        .iter()
        .cloned()
        .chain(columns.iter().map(|id| name_of(table, *id)));
    let key_casts = table
        .part_names()
        .into_iter()
        .zip(table.table.key_columns());
    let casts = key_casts
        .map(|(part, column)| format!("u.{part}::{}", table.cast(column.id)))
        .chain(
            columns
                .iter()
                .map(|id| format!("u.c{}::{}", id.0, table.cast(*id))),
        );
    let sql = format!(
        "insert into {name} as r ({targets}) overriding system value
         select {casts} from {source} order by u.number
         on conflict ({keys}) do nothing
         returning {key} as key, {cells} as cells",
        name = table.name(),
        targets = targets.collect::<Vec<_>>().join(", "),
        casts = casts.collect::<Vec<_>>().join(", "),
        source = source(table, columns),
        keys = keys.join(", "),
        key = table.key_text("r"),
        cells = PgTable::cells("r", table.table.registers()),
    );
    let returned = bind_and_query(work, table, columns, rows, &sql).await?;
    if returned.len() < rows.len() {
        return Err(if attempt < limits::MEND_AFTER_ATTEMPTS {
            Failure::Busy("a row was inserted meanwhile".to_owned())
        } else {
            suppressed(table)
        });
    }
    stamp_what_differs(work, table, columns, rows, &returned).await
}

async fn update(
    work: &mut Work<'_>,
    table: &PgTable,
    columns: &BTreeSet<ColumnId>,
    rows: &Group<'_>,
) -> Result<(), Failure> {
    let set = |id: &ColumnId| format!("{} = u.c{}::{}", name_of(table, *id), id.0, table.cast(*id));
    let sql = format!(
        "update {name} as r set {sets} from {source} where {has_key}
         returning u.key, {cells} as cells",
        name = table.name(),
        sets = columns.iter().map(set).collect::<Vec<_>>().join(", "),
        source = source(table, columns),
        has_key = table.has_key("r", "u"),
        cells = PgTable::cells("r", table.table.registers()),
    );
    let returned = bind_and_query(work, table, columns, rows, &sql).await?;
    if returned.len() < rows.len() {
        // The rows are locked, so nobody else took them away.
        return Err(suppressed(table));
    }
    stamp_what_differs(work, table, columns, rows, &returned).await
}

fn suppressed(table: &PgTable) -> Failure {
    let reason = format!(
        "a trigger or rule of table {} drops the write",
        table.table.local_name()
    );
    Failure::Refused(Refusal::new(RejectCode::Store, reason))
}

async fn delete_all(
    work: &mut Work<'_>,
    batch: &Batch<'_>,
    parents_first: &[TableId],
) -> Result<(), Failure> {
    for table in tables(batch, parents_first.iter().rev()) {
        let gone =
            |(_, row): &(&TextKey, &MergedRow)| row.changed && row.was_present && !row.is_present();
        let keys: Vec<TextKey> = table
            .rows
            .iter()
            .filter(gone)
            .map(|(key, _)| key.clone())
            .collect();
        if keys.is_empty() {
            continue;
        }
        let sql = format!(
            "delete from {} as r using {} where {}",
            table.table.name(),
            KeyColumns::unnest(table.table, 1),
            table.table.has_key("r", "u"),
        );
        let columns = KeyColumns::of(table.table, &keys);
        let parameters: Vec<_> = columns.parameters().collect();
        let deleted = work.execute(&sql, &parameters).await?;
        if usize::try_from(deleted) != Ok(keys.len()) {
            return Err(suppressed(table.table));
        }
    }
    Ok(())
}

fn name_of(table: &PgTable, id: ColumnId) -> String {
    table
        .table
        .column(id)
        .map_or_else(String::new, |column| quote(&column.name))
}

/// The rows to write as a source of rows: key text, key parts, then the columns.
fn source(table: &PgTable, columns: &BTreeSet<ColumnId>) -> String {
    let keys = table.part_names();
    let count = keys.len().saturating_add(columns.len()).saturating_add(1);
    let arrays: Vec<String> = (1..=count)
        .map(|number| format!("${number}::text[]"))
        .collect();
    let names: Vec<String> = keys
        .into_iter()
        .chain(columns.iter().map(|id| format!("c{}", id.0)))
        .collect();
    format!(
        "unnest({}) with ordinality as u (key, {}, number)",
        arrays.join(", "),
        names.join(", ")
    )
}

async fn bind_and_query(
    work: &mut Work<'_>,
    table: &PgTable,
    columns: &BTreeSet<ColumnId>,
    rows: &Group<'_>,
    sql: &str,
) -> Result<Vec<Row>, Failure> {
    let keys: Vec<TextKey> = rows.iter().map(|(key, _)| (*key).clone()).collect();
    let key_columns = KeyColumns::of(table, &keys);
    let texts = |id: &ColumnId| -> Vec<Option<String>> {
        rows.iter()
            .map(|(_, row)| row.values.get(id).and_then(values::to_text))
            .collect()
    };
    let cells: Vec<Vec<Option<String>>> = columns.iter().map(texts).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = key_columns
        .parameters()
        .chain(cells.iter().map(|column| column as &(dyn ToSql + Sync)))
        .collect();
    Ok(work.query(sql, &parameters).await?)
}

/// Where the store holds another value than was sent (a number brought to its scale, a default, what
/// a trigger put in), that is a write of the server, stamped above the row, so that it travels.
async fn stamp_what_differs(
    work: &mut Work<'_>,
    table: &PgTable,
    columns: &BTreeSet<ColumnId>,
    rows: &Group<'_>,
    returned: &[Row],
) -> Result<(), Failure> {
    const SQL: &str = "
        update anabranch.clocks c
        set server = anabranch.overlay(c.server, u.changes::bigint[], c.newest + 1),
            newest = c.newest + 1
        from unnest($2::text[], $3::text[]) as u (key, changes)
        where c.table_id = $1 and c.key = u.key";
    let sent: BTreeMap<&str, &MergedRow> = rows
        .iter()
        .map(|(key, row)| (key.text.as_str(), *row))
        .collect();
    let (mut keys, mut changes) = (Vec::new(), Vec::new());
    for row in returned {
        let key: &str = field(row, "key")?;
        let stored = rows::present_values(&table.table, field(row, "cells")?);
        let expected = sent.get(key).copied();
        let differs = |(id, value): (&ColumnId, &Value)| {
            let known = columns.contains(id) || expected.is_some_and(|row| row.was_present);
            let sent = expected.and_then(|row| row.values.get(id));
            let same = known && sent.is_some_and(|sent| is_same(&table.table, *id, sent, value));
            (!same).then_some((*id, Value::Integer(1)))
        };
        let differing: BTreeMap<ColumnId, Value> = stored.iter().filter_map(differs).collect();
        if !differing.is_empty() {
            keys.push(key);
            changes.push(array_literal(&differing));
        }
    }
    if !keys.is_empty() {
        work.execute(SQL, &[&table_number(table.table.id)?, &keys, &changes])
            .await?;
    }
    Ok(())
}

/// Whether the store holds what was sent. Sets may be spelled otherwise.
fn is_same(table: &Table, id: ColumnId, sent: &Value, stored: &Value) -> bool {
    let merge = table.column(id).map(|column| column.merge);
    sent == stored
        || merge == Some(MergeKind::Set) && elements_of(sent) == elements_of(stored)
        || merge == Some(MergeKind::Counter) && *stored == Value::Null && *sent == Value::Integer(0)
}

/// Values by column number as Postgres writes an array, NULL for columns without one.
fn array_literal(values: &BTreeMap<ColumnId, Value>) -> String {
    let last = values.keys().next_back().map_or(0, |column| column.0);
    let element = |number| match values.get(&ColumnId(number)).and_then(values::to_text) {
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        None => "NULL".to_owned(),
    };
    let elements: Vec<String> = (1..=last).map(element).collect();
    format!("{{{}}}", elements.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_counts_from_column_one_and_quotes_what_it_holds() {
        let values = BTreeMap::from([
            (ColumnId(2), Value::text("a\"b\\c")),
            (ColumnId(4), Value::Null),
            (ColumnId(5), Value::text("NULL")),
        ]);
        assert_eq!(
            array_literal(&values),
            r#"{NULL,"a\"b\\c",NULL,NULL,"NULL"}"#
        );
        assert_eq!(array_literal(&BTreeMap::new()), "{}");
    }
}
