//! Shapes: defined against a schema, equal where they mean the same, and applied to rows.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(
    clippy::disallowed_types,
    reason = "that equal shapes hash alike is what is tested"
)]

mod common;

use std::collections::HashSet;

use anabranch_crdt::{ColumnId, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value};
use anabranch_shape::{Shape, ShapeError};
use common::{items, schema};

fn define(table: &str, filter: Option<&str>, columns: &[&str]) -> Result<Shape, ShapeError> {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    Shape::define(&schema(), table, filter, &columns, &[])
}

fn stamp() -> Stamp {
    Stamp::new(Hlc::new(Millis(1), 0).unwrap(), ReplicaId([1; 16]))
}

#[test]
fn a_shape_names_a_table_rows_and_columns() -> Result<(), ShapeError> {
    let shape = define("items", None, &["points", "id", "name", "points"])?;
    assert_eq!(shape.table, TableId(7));
    assert_eq!(shape.filter, None);
    assert_eq!(shape.columns, [ColumnId(2), ColumnId(4)]);
    assert_eq!(define("sales.orders", None, &[])?.columns.len(), 19);
    assert_eq!(
        define("public.items", None, &[])?,
        define("items", None, &[])?
    );
    Ok(())
}

#[test]
fn what_is_not_there_is_answered_with_what_is() {
    let message = |table, columns: &[&str]| define(table, None, columns).unwrap_err().to_string();
    assert_eq!(
        message("item", &[]),
        "there is no table \"item\"; there are: items, sales.orders"
    );
    let message = message("sales.orders", &["nmae"]);
    assert!(
        message.starts_with("table \"sales.orders\" has no column \"nmae\"; it has: id, name,")
    );
}

#[test]
fn shapes_that_mean_the_same_are_equal() -> Result<(), ShapeError> {
    let spellings = [
        "price IN (1.50, 2) AND (done AND name = 'x')",
        "(items.price in (2.0, 1.5, 2)) and done = true and 'x' = NAME",
        "price IN ('2', 1.5) AND done AND name = 'x'::text",
    ];
    let mut shapes = HashSet::new();
    for filter in spellings {
        shapes.insert(define("items", Some(filter), &[])?);
    }
    assert_eq!(shapes.len(), 1);
    shapes.insert(define("items", Some("price IN (1.5, 2) AND done"), &[])?);
    shapes.insert(define("items", Some(spellings[0]), &["name"])?);
    assert_eq!(shapes.len(), 3);
    assert_eq!(
        define("items", Some("points < goal"), &[])?,
        define("items", Some("goal > points"), &[])?
    );
    assert_eq!(
        define("items", Some("TRUE"), &[])?,
        define("items", None, &[])?
    );
    Ok(())
}

#[test]
fn a_row_is_in_a_shape_while_it_is_present_and_the_filter_holds() -> Result<(), ShapeError> {
    let shape = define("items", Some("id < 10 AND points = 3"), &["name"])?;
    let key = |id| RowKey(vec![Value::Integer(id)]);
    let mut state = RowState::live(stamp());
    assert!(
        !shape.contains(&key(5), &state, &items()),
        "points is not known"
    );
    state.set(ColumnId(4), stamp(), Value::Integer(3));
    assert!(shape.contains(&key(5), &state, &items()));
    assert!(
        !shape.contains(&key(10), &state, &items()),
        "the key is part of the row"
    );
    *state.existence_mut() = state.existence().removal();
    assert!(
        !shape.contains(&key(5), &state, &items()),
        "the row is deleted"
    );
    Ok(())
}

#[test]
fn a_projection_keeps_the_existence_and_the_shape_s_columns() -> Result<(), ShapeError> {
    let mut state = RowState::live(stamp());
    state.set(ColumnId(2), stamp(), Value::text("x"));
    state.set(ColumnId(4), stamp(), Value::Integer(3));
    let projected = define("items", None, &["name"])?.project(&state);
    assert_eq!(projected.existence(), state.existence());
    assert_eq!(projected.value(ColumnId(2)), Some(&Value::text("x")));
    assert_eq!(projected.value(ColumnId(4)), None);
    Ok(())
}

#[test]
fn a_filter_knows_its_columns() -> Result<(), ShapeError> {
    let filter = "points < goal OR name LIKE 'x%' AND meta IS NULL OR done IN (TRUE)";
    let shape = define("items", Some(filter), &[])?;
    let columns = shape
        .filter
        .map(|filter| filter.columns())
        .unwrap_or_default();
    let expect = [2, 4, 5, 6, 17].map(ColumnId);
    assert!(columns.into_iter().eq(expect));
    Ok(())
}
