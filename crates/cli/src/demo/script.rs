//! A demo over anybody's tables: every table is a shape, and the edits are made up from what is there.

use std::path::Path;

use anabranch_crdt::{RowKey, Value};
use anabranch_protocol::limits::SUBSCRIPTIONS_MAX;
use anabranch_replica::Replica;
use anabranch_shape::schema::{Column, ColumnType, Schema, Table};

use super::{
    editor::Editor,
    plan::{Contest, Edit, Plan, PlannedShape, Side},
    verify::{quoted, select_sqlite},
};
use crate::{commands::inspect::key_text, failure::Failure, print::literal};

/// Reads the script.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}

/// One shape a table, without a condition.
pub(super) fn shapes(schema: &Schema) -> Result<Vec<PlannedShape>, Failure> {
    if schema.tables.len() > usize::from(SUBSCRIPTIONS_MAX) {
        let tables = schema.tables.len();
        return Err(
            Failure::new(format!("the script makes {tables} tables")).advising(format!(
                "a replica takes {SUBSCRIPTIONS_MAX} subscriptions; give fewer tables"
            )),
        );
    }
    let shape = |table: &Table| PlannedShape {
        table: table.local_name(),
        filter: None,
        parameters: Vec::new(),
    };
    Ok(schema.tables.iter().map(shape).collect())
}

/// Edits on every table that has rows and a column of text to change.
pub(super) fn plan(schema: &Schema, editor: &mut Editor) -> Result<Plan, Failure> {
    let mut plan = Plan {
        edits: Vec::new(),
        contests: Vec::new(),
        refusals: None,
    };
    for table in &schema.tables {
        editor.with(|replica| plan_table(schema, table, replica, &mut plan))?;
    }
    if plan.edits.is_empty() {
        return Err(
            Failure::new("no table has rows and a column of text to change")
                .advising("give a script that inserts some rows"),
        );
    }
    // All of Ann's come first, then the program's, then Bob's, so that they are concurrent and not one
    // after another.
    plan.edits.sort_by_key(|edit| match edit.side {
        Side::Ann => 0,
        Side::Program => 1,
        Side::Bob => 2,
    });
    Ok(plan)
}

fn plan_table(
    schema: &Schema,
    table: &Table,
    replica: &Replica,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let writable: Vec<&Column> = table
        .registers()
        .filter(|column| is_writable(table, column))
        .collect();
    let Some(first) = writable.first() else {
        return Ok(());
    };
    let rows = select_sqlite(replica.connection(), &table.local_name(), table, None);
    let rows = rows.map_err(|error| Failure::new(error.to_string()))?;
    let mut rows = rows
        .into_iter()
        .filter_map(|values| Row::read(table, values));
    let mut contest = |title: &str, row: &Row<'_>, columns: &[&Column]| {
        plan.contests.push(Contest {
            title: format!("{}: {title}", table.local_name()),
            table: table.local_name(),
            key: row.key.clone(),
            columns: columns.iter().map(|column| column.name.clone()).collect(),
        });
    };
    if let Some(row) = rows.next() {
        for side in Side::ALL {
            plan.edits.extend(row.change(side, first));
        }
        contest("all sides change one field", &row, &[first]);
    }
    if let Some(second) = writable.get(1)
        && let Some(row) = rows.next()
    {
        plan.edits.extend(row.change(Side::Ann, first));
        plan.edits.extend(row.change(Side::Bob, second));
        contest(
            "the editors change two fields of one row",
            &row,
            &[first, second],
        );
    }
    if let Some(row) = rows.next() {
        plan.edits.extend(row.change(Side::Program, first));
    }
    let is_parent = schema.tables.iter().flat_map(|other| &other.foreign_keys);
    if !is_parent.into_iter().any(|key| key.parent == table.id)
        && let Some(row) = rows.next()
    {
        plan.edits.push(row.delete(Side::Ann));
        plan.edits.extend(row.change(Side::Bob, first));
        contest("Ann deletes a row while Bob changes it", &row, &[first]);
    }
    Ok(())
}

fn is_writable(table: &Table, column: &Column) -> bool {
    let refers = table
        .foreign_keys
        .iter()
        .any(|key| key.columns.contains(&column.id));
    column.kind == ColumnType::Text && !refers && length_max(column) > 12
}

/// How many characters a column takes.
fn length_max(column: &Column) -> usize {
    let length = column
        .declared_type
        .split_once('(')
        .and_then(|(_, rest)| rest.split(')').next());
    length
        .and_then(|length| length.parse().ok())
        .unwrap_or(usize::MAX)
}

/// A row to be edited.
struct Row<'a> {
    table: &'a Table,
    key: RowKey,
    values: Vec<Value>,
}

impl<'a> Row<'a> {
    /// `None` for a row that plain SQL cannot name the same way in every store.
    fn read(table: &'a Table, values: Vec<Value>) -> Option<Self> {
        let plain = |column: &Column| {
            !matches!(
                column.kind,
                ColumnType::Bytes | ColumnType::Boolean | ColumnType::Float
            )
        };
        let row = Self {
            table,
            key: RowKey(Vec::new()),
            values,
        };
        let key: Option<Vec<Value>> = table
            .key_columns()
            .map(|column| row.value(column).filter(|_| plain(column)).cloned())
            .collect();
        Some(Self {
            key: RowKey(key?),
            ..row
        })
    }

    fn value(&self, column: &Column) -> Option<&Value> {
        let index = self
            .table
            .columns
            .iter()
            .position(|own| own.id == column.id)?;
        self.values.get(index)
    }

    /// A change of a text; `None` where there is no text.
    fn change(&self, side: Side, column: &Column) -> Option<Edit> {
        let Value::Text(old) = self.value(column)? else {
            return None;
        };
        let mark = format!(" ({})", side.name());
        let room = length_max(column).saturating_sub(mark.len());
        let text: String = old.chars().take(room).chain(mark.chars()).collect();
        let (name, key) = (&column.name, key_text(&self.key));
        let about = format!("changes {name} of {} {key}", self.table.local_name());
        let set = format!("{} = {}", quoted(name), literal(&Value::Text(text)));
        let sql = format!(
            "UPDATE {} SET {set} WHERE {}",
            self.table_for(side),
            self.condition()
        );
        Some(Edit::new(side, about, sql))
    }

    fn delete(&self, side: Side) -> Edit {
        let about = format!(
            "deletes {} {}",
            self.table.local_name(),
            key_text(&self.key)
        );
        let sql = format!(
            "DELETE FROM {} WHERE {}",
            self.table_for(side),
            self.condition()
        );
        Edit::new(side, about, sql)
    }

    fn table_for(&self, side: Side) -> String {
        match side {
            Side::Ann | Side::Bob => quoted(&self.table.local_name()),
            Side::Program => {
                format!(
                    "{}.{}",
                    quoted(&self.table.namespace),
                    quoted(&self.table.name)
                )
            }
        }
    }

    fn condition(&self) -> String {
        let columns = self.table.key_columns().zip(&self.key.0);
        let tests =
            columns.map(|(column, value)| format!("{} = {}", quoted(&column.name), literal(value)));
        tests.collect::<Vec<_>>().join(" AND ")
    }
}
