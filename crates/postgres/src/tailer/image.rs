//! Row images of one transaction of the log, joined by row: the row itself, its clock, and which
//! replicas' transactions it merged. No IO.

use std::collections::BTreeMap;

use anabranch_crdt::{ColumnId, Delta, ReplicaId, TableId, Value};
use anabranch_protocol::Seq;
use anabranch_shape::schema::{Column, Table};
use anabranch_store::StoreError;

use crate::{
    catalog::{Catalog, PgTable, table_id},
    clocks::{self, ClockRow},
    keys,
    replication::{Cell, Relation, RowImage},
    rows, values,
};

/// What a transaction did, by row.
#[derive(Debug, Default)]
pub(crate) struct Images {
    pub(crate) rows: BTreeMap<(TableId, String), Touched>,
    pub(crate) origins: Vec<(ReplicaId, Seq)>,
}

/// What a transaction did to one row: the last word counts.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    row: RowSeen,
    clock: ClockSeen,
}

#[derive(Debug, Default)]
enum RowSeen {
    #[default]
    Untouched,
    Gone,
    /// With its values outside the key; `None` if the log lacks one.
    Put(Option<BTreeMap<ColumnId, Value>>),
}

#[derive(Debug, Default)]
enum ClockSeen {
    #[default]
    Untouched,
    /// `None` if the log lacks a part.
    Put(Option<ClockRow>),
}

/// What is to be done about a row.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The log tells it all.
    Told(Delta),
    /// The log lacks something, or row and clock disagree.
    ReadAgain,
    /// The row was written and its clock was not: past the trigger.
    Mend,
}

impl Touched {
    pub(crate) fn verdict(self, table: &Table, key: &str) -> Result<Verdict, StoreError> {
        let clock = match (&self.row, self.clock) {
            (_, ClockSeen::Put(None)) => return Ok(Verdict::ReadAgain),
            (RowSeen::Untouched, ClockSeen::Untouched) => return Ok(Verdict::ReadAgain),
            (_, ClockSeen::Untouched) => return Ok(Verdict::Mend),
            (_, ClockSeen::Put(Some(clock))) => clock,
        };
        let in_table = matches!(self.row, RowSeen::Put(_));
        let unknown = BTreeMap::new();
        let values = match &self.row {
            RowSeen::Put(Some(values)) => values,
            _ => &unknown,
        };
        let clock = clocks::fold(Some(&clock), in_table, values, table)?;
        let values = match (self.row, clock.existence.is_present()) {
            (RowSeen::Put(Some(values)), true) => values,
            (RowSeen::Gone | RowSeen::Untouched, false) => BTreeMap::new(),
            _ => return Ok(Verdict::ReadAgain),
        };
        let key = keys::parse(table, key).ok_or_else(|| damaged(table))?;
        Ok(Verdict::Told(rows::delta(table, key, &clock, &values)))
    }
}

impl Images {
    /// Joins `images`. Images of tables of which `usable` says no, since the catalogue describes
    /// them otherwise by now, are left out: their clocks tell which rows to read again.
    pub(crate) fn join(
        catalog: &Catalog,
        images: Vec<RowImage>,
        usable: impl Fn(u32) -> bool,
    ) -> Result<Self, StoreError> {
        let mut joined = Self::default();
        for image in images {
            match image {
                RowImage::Put { relation, new, .. } if relation.namespace == "anabranch" => {
                    joined.side_table(&relation, &new)?;
                }
                RowImage::Gone { relation, .. } if relation.namespace == "anabranch" => {}
                RowImage::Put { relation, old, new } if usable(relation.oid) => {
                    joined.put(catalog, &relation, old.as_deref(), &new);
                }
                RowImage::Gone { relation, old } if usable(relation.oid) => {
                    joined.gone(catalog, &relation, &old);
                }
                RowImage::Emptied { relation } => joined.emptied(catalog, relation),
                RowImage::Put { .. } | RowImage::Gone { .. } => {}
            }
        }
        Ok(joined)
    }

    fn touch(&mut self, table: TableId, key: String) -> &mut Touched {
        self.rows.entry((table, key)).or_default()
    }

    /// A row whose key the log lacks (of a table with a replica identity of its own, or with a key
    /// too large to be repeated) is left to its clock.
    fn put(&mut self, catalog: &Catalog, relation: &Relation, old: Option<&[Cell]>, new: &[Cell]) {
        let Some(table) = catalog.by_oid(relation.oid) else {
            return;
        };
        let texts = Texts {
            relation,
            cells: new,
        };
        let key = texts.key(&table.table);
        if let Some(old) = old {
            let old_key = Texts {
                relation,
                cells: old,
            }
            .key(&table.table);
            if let Some(old_key) = old_key.filter(|old_key| Some(old_key) != key.as_ref()) {
                self.touch(table.table.id, old_key).row = RowSeen::Gone;
            }
        }
        if let Some(key) = key {
            self.touch(table.table.id, key).row = RowSeen::Put(texts.registers(&table.table));
        }
    }

    fn gone(&mut self, catalog: &Catalog, relation: &Relation, old: &[Cell]) {
        let Some(table) = catalog.by_oid(relation.oid) else {
            return;
        };
        if let Some(key) = (Texts {
            relation,
            cells: old,
        })
        .key(&table.table)
        {
            self.touch(table.table.id, key).row = RowSeen::Gone;
        }
    }

    fn emptied(&mut self, catalog: &Catalog, oid: u32) {
        let Some(table) = catalog.by_oid(oid) else {
            return;
        };
        let id = table.table.id;
        for ((_, _), touched) in self.rows.iter_mut().filter(|((table, _), _)| *table == id) {
            touched.row = RowSeen::Gone;
        }
    }

    fn side_table(&mut self, relation: &Relation, cells: &[Cell]) -> Result<(), StoreError> {
        let texts = Texts { relation, cells };
        match relation.name.as_str() {
            "clocks" => {
                let (table, key) = (texts.number("table_id")?, texts.text("key")?);
                let table = table_id(i32::try_from(table).map_err(|_| side("table_id"))?)?;
                let clock = texts.clock_row()?;
                self.touch(table, key.to_owned()).clock = ClockSeen::Put(clock);
            }
            "marks" if texts.is_null("code") => {
                let replica = parse_uuid(texts.text("replica")?).ok_or_else(|| side("replica"))?;
                let seq = Seq(texts.number("seq")?.unsigned_abs());
                self.origins.push((replica, seq));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether the log and the catalogue describe the table alike, so that images can be read.
pub(crate) fn agrees(catalog: &Catalog, relation: &Relation) -> bool {
    let Some(table) = catalog.by_oid(relation.oid) else {
        return false;
    };
    let named = (&table.table.namespace, &table.table.name);
    let known = table
        .table
        .columns
        .iter()
        .map(|column| described(table, column));
    let logged = relation
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.type_oid));
    named == (&relation.namespace, &relation.name) && logged.eq(known)
}

fn described<'a>(table: &PgTable, column: &'a Column) -> (&'a str, u32) {
    (
        column.name.as_str(),
        table.types.get(&column.id).copied().unwrap_or(0),
    )
}

/// A row of the log with the names of its columns.
#[derive(Clone, Copy)]
struct Texts<'a> {
    relation: &'a Relation,
    cells: &'a [Cell],
}

impl<'a> Texts<'a> {
    fn cell(self, name: &str) -> Option<&'a Cell> {
        let position = self
            .relation
            .columns
            .iter()
            .position(|column| column.name == name)?;
        self.cells.get(position)
    }

    fn text(self, name: &str) -> Result<&'a str, StoreError> {
        self.cell(name)
            .and_then(Cell::text)
            .ok_or_else(|| side(name))
    }

    fn number(self, name: &str) -> Result<i64, StoreError> {
        self.text(name)?.parse().map_err(|_| side(name))
    }

    fn is_null(self, name: &str) -> bool {
        matches!(self.cell(name), None | Some(Cell::Null))
    }

    fn nullable<T>(
        self,
        name: &str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        if self.is_null(name) {
            return Ok(None);
        }
        read(self.text(name)?).map(Some).ok_or_else(|| side(name))
    }

    /// The key text of a row of a user's table; `None` if the log lacks a part.
    fn key(self, table: &Table) -> Option<String> {
        let text = |column: &Column| self.cell(&column.name)?.text().map(str::to_owned);
        let parts: Vec<String> = table.key_columns().map(text).collect::<Option<_>>()?;
        Some(keys::join(&parts))
    }

    /// The values of a row of a user's table outside its key; `None` if the log lacks one.
    fn registers(self, table: &Table) -> Option<BTreeMap<ColumnId, Value>> {
        let mut found = BTreeMap::new();
        for column in table.registers() {
            let value = match self.cell(&column.name)? {
                Cell::Unchanged => return None,
                cell => values::from_nullable(column.kind, cell.text()),
            };
            found.insert(column.id, value);
        }
        Some(found)
    }

    /// A row of `anabranch.clocks`; `None` if the log lacks a part of it.
    fn clock_row(self) -> Result<Option<ClockRow>, StoreError> {
        if self.cells.contains(&Cell::Unchanged) {
            return Ok(None);
        }
        Ok(Some(ClockRow {
            clock: self.nullable("clock", |text| {
                text.strip_prefix("\\x").and_then(values::unhex)
            })?,
            born_before: self.text("born_before")? == "t",
            server: self.nullable("server", parse_numbers)?.unwrap_or_default(),
            server_live: self.nullable("server_live", |text| text.parse().ok())?,
            server_removed: self.text("server_removed")? == "t",
            swept: self.text("swept")? == "t",
            removed: self.nullable("removed", |text| Some(text.to_owned()))?,
        }))
    }
}

/// An array of numbers as Postgres writes it.
fn parse_numbers(text: &str) -> Option<Vec<Option<i64>>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let number = |element: &str| match element {
        "NULL" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    inner.split(',').map(number).collect()
}

fn parse_uuid(text: &str) -> Option<ReplicaId> {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    Some(ReplicaId(values::unhex(&digits)?.try_into().ok()?))
}

fn side(column: &str) -> StoreError {
    StoreError::Damaged(format!("a row of a side table has no readable {column:?}"))
}

fn damaged(table: &Table) -> StoreError {
    StoreError::Damaged(format!(
        "a key text that is no key of table {}",
        table.local_name()
    ))
}
