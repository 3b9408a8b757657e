//! A table with a column of every type, for the tests of the shape language.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use anabranch_crdt::{ColumnId, TableId, Value};
use anabranch_shape::schema::{Column, ColumnType, Schema, Table};

/// Name, type and declared type of each column, numbered from 1.
pub const COLUMNS: [(&str, ColumnType, &str); 20] = [
    ("id", ColumnType::Integer, "bigint"),
    ("name", ColumnType::Text, "text"),
    ("title", ColumnType::Text, "character varying(80)"),
    ("points", ColumnType::Integer, "smallint"),
    ("goal", ColumnType::Integer, "integer"),
    ("done", ColumnType::Boolean, "boolean"),
    ("weight", ColumnType::Float, "double precision"),
    ("ratio", ColumnType::Float, "real"),
    ("price", ColumnType::Numeric, "numeric(20,4)"),
    ("cost", ColumnType::Numeric, "numeric"),
    ("ref", ColumnType::Uuid, "uuid"),
    ("data", ColumnType::Bytes, "bytea"),
    ("due", ColumnType::Date, "date"),
    ("at", ColumnType::Time, "time without time zone"),
    ("made", ColumnType::Timestamp, "timestamp without time zone"),
    ("seen", ColumnType::TimestampTz, "timestamp with time zone"),
    ("meta", ColumnType::Json, "jsonb"),
    ("state", ColumnType::Enum, "mood"),
    ("tags", ColumnType::Other, "text[]"),
    ("Odd \"Name", ColumnType::Text, "text"),
];

/// The table `items`. Its text is bytewise ordered, but for `title`.
pub fn items() -> Table {
    let columns = COLUMNS
        .iter()
        .zip(1..)
        .map(|((name, kind, declared_type), id)| Column {
            id: ColumnId(id),
            name: (*name).to_owned(),
            kind: *kind,
            declared_type: (*declared_type).to_owned(),
            nullable: id != 1,
            has_default: false,
            bytewise_order: *name != "title",
            merge: Default::default(),
        });
    Table {
        id: TableId(7),
        namespace: "public".to_owned(),
        name: "items".to_owned(),
        columns: columns.collect(),
        primary_key: vec![ColumnId(1)],
        foreign_keys: Vec::new(),
        delete: Default::default(),
    }
}

/// A schema of `items` and `sales.orders`.
pub fn schema() -> Schema {
    let mut orders = items();
    orders.id = TableId(8);
    orders.namespace = "sales".to_owned();
    orders.name = "orders".to_owned();
    Schema {
        version: 1,
        tables: vec![items(), orders],
    }
}

/// A row, by column name.
pub type Row = BTreeMap<ColumnId, Value>;

/// The row with these values; every other column is missing.
pub fn row<const N: usize>(values: [(&str, Value); N]) -> Row {
    let table = items();
    values
        .into_iter()
        .map(|(name, value)| (table.column_named(name).unwrap().id, value))
        .collect()
}
