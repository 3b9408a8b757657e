//! Rows together with their clocks, read by key in one statement and so as of one moment.

use std::collections::BTreeMap;

use anabranch_crdt::{ColumnId, Delta, RowClock, RowKey, RowState, Value};
use anabranch_shape::schema::Table;
use anabranch_store::StoreError;
use tokio_postgres::{Row, types::ToSql};

use crate::{
    catalog::{PgTable, field, table_number},
    clocks::{self, ClockRow},
    errors::Failure,
    keys,
    pool::Work,
    values,
};

/// What the store holds of one row.
#[derive(Clone, Debug)]
pub(crate) struct StoredRow {
    /// Whether the row is in its table.
    pub(crate) present: bool,
    /// Its values outside the key, from the table or from its tombstone.
    pub(crate) values: BTreeMap<ColumnId, Value>,
    /// Its row in `anabranch.clocks`.
    pub(crate) clock: Option<ClockRow>,
    /// Whether the key was asked for by the very text that Postgres writes it as.
    pub(crate) canonical: bool,
}

/// A key, and the texts that address it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TextKey {
    /// The key text.
    pub(crate) text: String,
    /// The texts of its parts.
    pub(crate) parts: Vec<String>,
}

impl TextKey {
    /// The texts of a key; `None` if a part is NULL.
    pub(crate) fn of(table: &Table, key: &RowKey) -> Option<Self> {
        let parts = keys::parts(table, key)?;
        Some(Self {
            text: keys::join(&parts),
            parts,
        })
    }

    /// The parts of a key text.
    pub(crate) fn parse(table: &Table, text: &str) -> Option<Self> {
        Some(Self {
            text: text.to_owned(),
            parts: keys::split(table, text)?,
        })
    }
}

impl StoredRow {
    /// The row's clock.
    pub(crate) fn fold(&self, table: &Table) -> Result<RowClock, StoreError> {
        clocks::fold(self.clock.as_ref(), self.present, &self.values, table)
    }

    /// Whether the store has ever heard of the row.
    pub(crate) fn is_known(&self) -> bool {
        self.present || self.clock.is_some()
    }
}

/// The state of a row with this clock and these values: complete if it is present, only its
/// existence if not.
pub(crate) fn state(
    clock: &RowClock,
    values: &BTreeMap<ColumnId, Value>,
    mut wanted: impl FnMut(ColumnId) -> bool,
) -> RowState {
    let mut state = RowState::of_existence(clock.existence.clone());
    for (column, stamp) in clock.registers() {
        if let Some(value) = values.get(column).filter(|_| wanted(*column)) {
            state.set(*column, *stamp, value.clone());
        }
    }
    for (column, other) in clock.columns() {
        if values.contains_key(column) && wanted(*column) {
            state.set_column(*column, other.clone());
        }
    }
    state
}

/// A delta that tells all that is to be told of a row.
pub(crate) fn delta(
    table: &Table,
    key: RowKey,
    clock: &RowClock,
    values: &BTreeMap<ColumnId, Value>,
) -> Delta {
    let present = clock.existence.is_present();
    Delta {
        table: table.id,
        key,
        state: state(clock, values, |_| present),
    }
}

/// Reads the rows with these keys, in their order, one each.
pub(crate) async fn read(
    work: &mut Work<'_>,
    table: &PgTable,
    keys: &[TextKey],
) -> Result<Vec<StoredRow>, Failure> {
    let number = table_number(table.table.id)?;
    let columns = KeyColumns::of(table, keys);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&number];
    parameters.extend(columns.parameters());
    let rows = work.query(&read_sql(table), &parameters).await?;
    let read: Result<Vec<StoredRow>, StoreError> = rows
        .iter()
        .map(|row| stored_row(&table.table, row))
        .collect();
    Ok(read?)
}

/// Keys, column by column, as an `unnest` takes them: the key text first, then the parts.
pub(crate) struct KeyColumns(Vec<Vec<String>>);

impl KeyColumns {
    pub(crate) fn of(table: &PgTable, keys: &[TextKey]) -> Self {
        let texts = keys.iter().map(|key| key.text.clone()).collect();
        let part = |index| {
            keys.iter()
                .map(|key| key.parts.get(index).cloned().unwrap_or_default())
                .collect()
        };
        let parts = (0..table.table.primary_key.len()).map(part);
        Self(std::iter::once(texts).chain(parts).collect())
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &(dyn ToSql + Sync)> {
        self.0.iter().map(|column| column as &(dyn ToSql + Sync))
    }

    /// The `unnest` of these columns, called `u` and numbered, if they are bound from `first` on.
    pub(crate) fn unnest(table: &PgTable, first: usize) -> String {
        let names = table.part_names();
        let arrays: Vec<String> = (first..)
            .take(names.len().saturating_add(1))
            .map(|number| format!("${number}::text[]"))
            .collect();
        format!(
            "unnest({}) with ordinality as u (key, {}, number)",
            arrays.join(", "),
            names.join(", ")
        )
    }
}

fn read_sql(table: &PgTable) -> String {
    format!(
        "select r.ctid is not null as present,
                u.key = case when r.ctid is null then {canonical} else {key} end as canonical,
                {cells} as cells, t.cells as tombstone, {clock}
         from {keys}
         left join {name} r on {has_key}
         left join anabranch.clocks c on c.table_id = $1 and c.key = u.key
         left join anabranch.tombstones t on t.table_id = $1 and t.key = u.key
         order by u.number",
        canonical = table.canonical_key("u"),
        key = table.key_text("r"),
        cells = PgTable::cells("r", table.table.registers()),
        clock = CLOCK_COLUMNS,
        keys = KeyColumns::unnest(table, 2),
        name = table.name(),
        has_key = table.has_key("r", "u"),
    )
}

/// The columns of `anabranch.clocks c` that [`clock_row`] reads.
pub(crate) const CLOCK_COLUMNS: &str = "c.table_id is not null as has_clock, c.clock,
    c.born_before, c.server, c.server_live, c.server_removed, c.swept,
    c.removed::text as removed";

fn stored_row(table: &Table, row: &Row) -> Result<StoredRow, StoreError> {
    let present: bool = field(row, "present")?;
    let values = if present {
        present_values(table, field(row, "cells")?)
    } else {
        buried_values(table, field(row, "tombstone")?)
    };
    Ok(StoredRow {
        present,
        values,
        clock: clock_row(row)?,
        canonical: field(row, "canonical")?,
    })
}

/// The values of a row in its table, whose texts are `cells`.
pub(crate) fn present_values(
    table: &Table,
    cells: Option<Vec<Option<&str>>>,
) -> BTreeMap<ColumnId, Value> {
    let typed = |(column, text): (&anabranch_shape::schema::Column, Option<&str>)| {
        (column.id, values::from_nullable(column.kind, text))
    };
    table
        .registers()
        .zip(cells.unwrap_or_default())
        .map(typed)
        .collect()
}

/// The values of a row that is not in its table: its tombstone counts by column number.
fn buried_values(table: &Table, cells: Option<Vec<Option<&str>>>) -> BTreeMap<ColumnId, Value> {
    let mut buried = BTreeMap::new();
    for (number, text) in (1_u16..).zip(cells.unwrap_or_default()) {
        let column = table.registers().find(|column| column.id.0 == number);
        if let Some(column) = column {
            buried.insert(column.id, values::from_nullable(column.kind, text));
        }
    }
    buried
}

/// The row of `anabranch.clocks` among the columns of a query, if there is one.
pub(crate) fn clock_row(row: &Row) -> Result<Option<ClockRow>, StoreError> {
    if !field::<bool>(row, "has_clock")? {
        return Ok(None);
    }
    Ok(Some(ClockRow {
        clock: field(row, "clock")?,
        born_before: field(row, "born_before")?,
        server: field::<Option<Vec<Option<i64>>>>(row, "server")?.unwrap_or_default(),
        server_live: field(row, "server_live")?,
        server_removed: field(row, "server_removed")?,
        swept: field(row, "swept")?,
        removed: field(row, "removed")?,
    }))
}
