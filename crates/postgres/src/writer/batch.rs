//! The rows that a merge touches: gathered and locked, then merged in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use anabranch_crdt::{ColumnId, Delta, Hlc, RowClock, RowState, TableId, Value, merge};
use anabranch_protocol::RejectCode;
use anabranch_shape::schema::Table;
use anabranch_store::{
    Rejection, StoreError, Upload,
    columns::{misfit, oversize},
};

use crate::{
    catalog::{Catalog, PgTable, field, table_id, table_number},
    clocks,
    errors::{Failure, Refusal, store_error},
    pool::Work,
    rows::{self, KeyColumns, StoredRow, TextKey},
    values,
};

/// What to do about a row that is there while its clock says it is not, or the other way about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// Somebody may just be writing it: try again.
    TryAgain,
    /// Somebody wrote past the trigger: mend the clock.
    Mend,
}

/// The rows of a merge, by table and key, in the order in which they are locked.
#[derive(Debug, Default)]
pub(crate) struct Batch<'a> {
    pub(crate) tables: BTreeMap<TableId, TableBatch<'a>>,
}

/// The rows of one table.
#[derive(Debug)]
pub(crate) struct TableBatch<'a> {
    pub(crate) table: &'a PgTable,
    pub(crate) rows: BTreeMap<TextKey, MergedRow>,
}

/// A row as it was and as it becomes.
#[derive(Clone, Debug, Default)]
pub(crate) struct MergedRow {
    /// Whether it was in its table.
    pub(crate) was_present: bool,
    /// Whether it had a clock row.
    pub(crate) had_clock: bool,
    /// The values it had.
    pub(crate) held: BTreeMap<ColumnId, Value>,
    /// The clock it gets.
    pub(crate) clock: RowClock,
    /// The values it gets.
    pub(crate) values: BTreeMap<ColumnId, Value>,
    /// Whether its state changes at all.
    pub(crate) changed: bool,
}

impl<'a> Batch<'a> {
    /// The rows that `uploads` are about, if their deltas make sense.
    pub(crate) fn of_uploads(catalog: &'a Catalog, uploads: &[&Upload]) -> Result<Self, Failure> {
        let mut batch = Self::default();
        for delta in uploads.iter().flat_map(|upload| &upload.transaction.deltas) {
            let (table, key) = addressed(catalog, delta).map_err(Failure::Refused)?;
            check_values(&table.table, delta).map_err(Failure::Refused)?;
            batch.add(table, key);
        }
        Ok(batch)
    }

    /// Takes a row up.
    pub(crate) fn add(&mut self, table: &'a PgTable, key: TextKey) {
        let rows = self.tables.entry(table.table.id);
        let rows = rows.or_insert_with(|| TableBatch {
            table,
            rows: BTreeMap::new(),
        });
        rows.rows.insert(key, MergedRow::default());
    }

    /// Locks the rows, then their clocks, both in key order, and reads them: SQL writers lock in the
    /// same order.
    pub(crate) async fn gather(
        &mut self,
        work: &mut Work<'_>,
        mismatch: Mismatch,
    ) -> Result<(), Failure> {
        let mut locked_rows = BTreeSet::new();
        for (id, table) in &self.tables {
            for key in lock_rows(work, table).await? {
                locked_rows.insert((*id, key));
            }
        }
        let locked_clocks = self.lock_clocks(work).await?;
        for (id, table) in &mut self.tables {
            let keys: Vec<TextKey> = table.rows.keys().cloned().collect();
            let stored = rows::read(work, table.table, &keys).await?;
            for ((key, row), stored) in table.rows.iter_mut().zip(stored) {
                let address = (*id, key.text.clone());
                let unlocked = stored.present && !locked_rows.contains(&address)
                    || stored.clock.is_some() && !locked_clocks.contains(&address);
                if unlocked {
                    return Err(Failure::Busy(
                        "a row came while it was being read".to_owned(),
                    ));
                }
                *row = opened(work, &table.table.table, key, stored, mismatch).await?;
            }
        }
        Ok(())
    }

    /// Takes up those of `keys` that are not in the batch yet, as [`gather`](Self::gather) does.
    pub(crate) async fn gather_more(
        &mut self,
        work: &mut Work<'_>,
        table: &'a PgTable,
        keys: &BTreeSet<TextKey>,
        mismatch: Mismatch,
    ) -> Result<(), Failure> {
        let held = self.tables.get(&table.table.id);
        let is_held = |key: &TextKey| held.is_some_and(|table| table.rows.contains_key(key));
        let mut more = Self::default();
        for key in keys.iter().filter(|key| !is_held(key)) {
            more.add(table, key.clone());
        }
        more.gather(work, mismatch).await?;
        for (id, mut gathered) in more.tables {
            match self.tables.entry(id) {
                Entry::Vacant(place) => drop(place.insert(gathered)),
                Entry::Occupied(mut place) => place.get_mut().rows.append(&mut gathered.rows),
            }
        }
        Ok(())
    }

    /// Whether there are rows that the store does not have.
    pub(crate) fn has_unknown(&self) -> bool {
        let mut rows = self.tables.values().flat_map(|table| table.rows.values());
        rows.any(|row| !row.is_known())
    }

    async fn lock_clocks(
        &self,
        work: &mut Work<'_>,
    ) -> Result<BTreeSet<(TableId, String)>, Failure> {
        const SQL: &str = "
            select c.table_id, c.key
            from unnest($1::int[], $2::text[]) with ordinality as u (table_id, key, number)
            join anabranch.clocks c on c.table_id = u.table_id and c.key = u.key
            order by u.number for update of c";
        let (mut numbers, mut keys) = (Vec::new(), Vec::new());
        for (id, table) in &self.tables {
            for key in table.rows.keys() {
                numbers.push(table_number(*id)?);
                keys.push(key.text.as_str());
            }
        }
        if keys.is_empty() {
            return Ok(BTreeSet::new());
        }
        let locked = work.query(SQL, &[&numbers, &keys]).await?;
        let address = |row: &tokio_postgres::Row| -> Result<_, StoreError> {
            Ok((table_id(field(row, "table_id")?)?, field(row, "key")?))
        };
        Ok(locked.iter().map(address).collect::<Result<_, _>>()?)
    }

    /// Merges the uploads' deltas in, in their order.
    ///
    /// Refused if one writes to a row that the store does not have and cannot judge.
    pub(crate) fn merge(&mut self, uploads: &[&Upload], horizon: Hlc) -> Result<(), Refusal> {
        for upload in uploads {
            for (place, delta) in upload.transaction.deltas.iter().enumerate() {
                let Some(batch) = self.tables.get_mut(&delta.table) else {
                    continue;
                };
                let table = &batch.table.table;
                let key = TextKey::of(table, &delta.key);
                let Some(row) = key.and_then(|key| batch.rows.get_mut(&key)) else {
                    continue;
                };
                if !row.is_known() && upload.needs_row(place, horizon) {
                    let reason = Rejection::stale_reason(&table.local_name());
                    return Err(Refusal::new(RejectCode::Stale, reason));
                }
                row.merge(&of_known_columns(table, &delta.state));
                if let Some(reason) = oversize(table, delta, &row.clock) {
                    return Err(Refusal::new(RejectCode::TooLarge, reason));
                }
            }
        }
        Ok(())
    }
}

impl MergedRow {
    /// Whether the row is in its table now.
    pub(crate) fn is_present(&self) -> bool {
        self.clock.existence.is_present()
    }

    /// Whether the row was in its table once and is no more.
    pub(crate) fn is_removed(&self) -> bool {
        !self.clock.existence.is_empty() && !self.is_present()
    }

    /// Whether the store has ever heard of the row, or just does.
    fn is_known(&self) -> bool {
        self.was_present || self.had_clock || self.changed
    }

    fn merge(&mut self, delta: &RowState) {
        let values = &self.values;
        let merged = merge(&mut self.clock, delta, |column, incoming| {
            values.get(&column).cmp(&Some(incoming))
        });
        for column in &merged.won {
            let shown = self.clock.shown(*column);
            if let Some(value) = shown.or_else(|| delta.value(*column)) {
                self.values.insert(*column, value.clone());
            }
        }
        self.clock.settle();
        self.changed |= merged.changed;
    }
}

/// A row as it was read, ready to be merged into.
async fn opened(
    work: &mut Work<'_>,
    table: &Table,
    key: &TextKey,
    stored: StoredRow,
    mismatch: Mismatch,
) -> Result<MergedRow, Failure> {
    if !stored.canonical {
        let reason = format!(
            "{:?} is not how Postgres writes the key of table {}; use the text it writes",
            key.text,
            table.local_name()
        );
        return Err(Failure::Refused(Refusal::new(
            RejectCode::InvalidValue,
            reason,
        )));
    }
    let mut clock = stored.fold(table)?;
    let agrees = clock.existence.is_present() == stored.present;
    if !agrees {
        if mismatch == Mismatch::TryAgain {
            return Err(Failure::Busy("a row and its clock disagree".to_owned()));
        }
        let now = hlc_now(work).await?;
        clocks::mend(&mut clock, stored.present, &stored.values, table, now)?;
    }
    Ok(MergedRow {
        was_present: stored.present,
        had_clock: stored.clock.is_some(),
        held: stored.values.clone(),
        values: stored.values,
        clock,
        changed: !agrees,
    })
}

/// A clock reading of the store: now.
pub(crate) async fn hlc_now(work: &mut Work<'_>) -> Result<i64, Failure> {
    let rows = work.query("select anabranch.hlc_now()", &[]).await?;
    let now = rows.first().map_or(Ok(0), |row| row.try_get(0));
    now.map_err(|error| Failure::Store(store_error(&error)))
}

/// Locks those of a table's rows that are there, and tells their key texts.
async fn lock_rows(work: &mut Work<'_>, batch: &TableBatch<'_>) -> Result<Vec<String>, Failure> {
    let table = batch.table;
    let keys: Vec<TextKey> = batch.rows.keys().cloned().collect();
    let sql = format!(
        "select u.key from {} join {} r on {} order by u.number for update of r",
        KeyColumns::unnest(table, 1),
        table.name(),
        table.has_key("r", "u"),
    );
    let columns = KeyColumns::of(table, &keys);
    let parameters: Vec<_> = columns.parameters().collect();
    let rows = work.query(&sql, &parameters).await?;
    let keys = rows.iter().map(|row| row.try_get(0));
    keys.collect::<Result<_, _>>()
        .map_err(|error| Failure::Store(store_error(&error)))
}

/// The row that a delta is about.
pub(crate) fn addressed<'a>(
    catalog: &'a Catalog,
    delta: &Delta,
) -> Result<(&'a PgTable, TextKey), Refusal> {
    let unknown = || {
        let reason = format!(
            "table number {} is not replicated (any more)",
            delta.table.0
        );
        Refusal::new(RejectCode::UnknownSchema, reason)
    };
    let table = catalog.tables.get(&delta.table).ok_or_else(unknown)?;
    let invalid = |why: &str| {
        let reason = format!(
            "the key of a row of table {} {why}",
            table.table.local_name()
        );
        Refusal::new(RejectCode::InvalidValue, reason)
    };
    if delta.key.0.len() != table.table.primary_key.len() {
        return Err(invalid("has not as many parts as the primary key"));
    }
    for (column, value) in table.table.key_columns().zip(&delta.key.0) {
        if let Some(why) = values::refusal(column.kind, value) {
            return Err(invalid(why));
        }
        let again =
            values::written(column.kind, value).map(|text| values::from_text(column.kind, &text));
        if again.as_ref() != Some(value) {
            return Err(invalid(&format!(
                "has a value that column {} does not",
                column.name
            )));
        }
    }
    let key = TextKey::of(&table.table, &delta.key).ok_or_else(|| invalid("is NULL"))?;
    Ok((table, key))
}

/// The delta without the columns that are gone.
fn of_known_columns<'d>(table: &Table, delta: &'d RowState) -> Cow<'d, RowState> {
    let is_known = |id| table.registers().any(|column| column.id == id);
    if delta.columns().all(is_known) {
        Cow::Borrowed(delta)
    } else {
        Cow::Owned(delta.project(is_known))
    }
}

fn check_values(table: &Table, delta: &Delta) -> Result<(), Refusal> {
    if let Some(reason) = misfit(table, delta) {
        return Err(Refusal::new(RejectCode::InvalidValue, reason));
    }
    for id in delta.state.columns() {
        let value = delta.state.value(id).unwrap_or(&Value::Null);
        let Some(column) = table.registers().find(|column| column.id == id) else {
            // A row inserted before the column was dropped, which never had a value there.
            if *value == Value::Null {
                continue;
            }
            let reason = format!(
                "table {} has no column number {} (any more)",
                table.local_name(),
                id.0
            );
            return Err(Refusal::new(RejectCode::UnknownSchema, reason));
        };
        if let Some(why) = values::refusal(column.kind, value) {
            let reason = format!(
                "column {} of table {}: {why}",
                column.name,
                table.local_name()
            );
            return Err(Refusal::new(RejectCode::InvalidValue, reason));
        }
    }
    Ok(())
}
