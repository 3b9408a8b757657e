//! A shape: which rows of a table, and which of their columns.

use std::{collections::BTreeSet, sync::Arc};

use anabranch_crdt::{ColumnId, RowKey, RowState, TableId, Value};

use crate::{
    Predicate, Problem, ShapeError,
    error::listed,
    schema::{Schema, Table},
};

/// A filtered, partial copy of a table, checked against the schema. Shapes with the same meaning
/// are equal and hash alike, as far as [`Predicate`] sees that they mean the same, so that they can
/// share what is computed for them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The table.
    pub table: TableId,
    /// The rows; every row where there is none.
    pub filter: Option<Arc<Predicate>>,
    /// The columns outside the key, in the order of their numbers. The key always comes along.
    pub columns: Vec<ColumnId>,
}

impl Shape {
    /// The shape of the rows of `table` for which `filter` holds, with the columns named (every
    /// column where none is), and with `parameters` in place of the filter's `:names`.
    pub fn define(
        schema: &Schema,
        table: &str,
        filter: Option<&str>,
        columns: &[String],
        parameters: &[(String, Value)],
    ) -> Result<Self, ShapeError> {
        let table = schema.table_named(table).ok_or_else(|| {
            let names: Vec<String> = schema.tables.iter().map(Table::local_name).collect();
            let known = listed(names.iter().map(String::as_str));
            Problem::UnknownTable {
                name: table.to_owned(),
                known,
            }
        })?;
        let filter = match filter {
            None => None,
            Some(text) => Some(Predicate::parse(text, table, parameters)?),
        };
        Ok(Self {
            table: table.id,
            filter: filter
                .filter(|filter| !filter.is_always_true())
                .map(Arc::new),
            columns: chosen(table, columns)?,
        })
    }

    /// Whether a row is in the shape: it is in the table, and the filter holds for it.
    pub fn contains(&self, key: &RowKey, state: &RowState, table: &Table) -> bool {
        let value = |column| table.key_value(key, column).or_else(|| state.value(column));
        state.existence().is_present()
            && self
                .filter
                .as_ref()
                .is_none_or(|filter| filter.matches(&value))
    }

    /// The row state without the columns outside the shape.
    pub fn project(&self, state: &RowState) -> RowState {
        state.project(|column| self.columns.binary_search(&column).is_ok())
    }
}

fn chosen(table: &Table, names: &[String]) -> Result<Vec<ColumnId>, ShapeError> {
    if names.is_empty() {
        let all: BTreeSet<ColumnId> = table.registers().map(|column| column.id).collect();
        return Ok(all.into_iter().collect());
    }
    let mut chosen = BTreeSet::new();
    for name in names {
        let column = table.column_named(name).ok_or_else(|| {
            let known = listed(table.columns.iter().map(|column| column.name.as_str()));
            Problem::UnknownColumn {
                table: table.local_name(),
                name: name.clone(),
                known,
            }
        })?;
        if !table.is_key(column.id) {
            chosen.insert(column.id);
        }
    }
    Ok(chosen.into_iter().collect())
}
