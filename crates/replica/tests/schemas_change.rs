//! The file follows a changed schema by adding; what went stays, out of replication.
mod common;

use anabranch_crdt::{ColumnId, TableId, Value};
use anabranch_replica::{Event, SignOut};
use anabranch_shape::schema::ColumnType;
use common::{Site, column, count, open_foreign, schema, table, written};

#[test]
fn new_tables_and_columns_are_captured() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    let mut wider = schema();
    wider.version = 2;
    wider.tables[3]
        .columns
        .push(column(3, "extra", ColumnType::Integer, false));
    wider.tables.push(table(
        TableId(5),
        "fresh",
        vec![column(1, "id", ColumnType::Text, false)],
        &[1],
    ));
    site.replica.adopt_schema(wider.clone()).unwrap();
    assert!(
        site.replica
            .take_events()
            .contains(&Event::SchemaAdopted { version: 2 })
    );
    site.run("UPDATE numbered SET extra = 5; INSERT INTO fresh VALUES ('only a key')");
    let last = site.last();
    assert_eq!(written(&last.deltas[0]), [3]);
    assert_eq!(last.deltas[1].table, TableId(5));
    site.run("DELETE FROM numbered");
    let state = site.replica.row_states("numbered").unwrap().remove(0).1;
    assert_eq!(state.value(ColumnId(3)), Some(&Value::Integer(5)));
    // The same schema again is no change.
    site.replica.take_events();
    site.replica.adopt_schema(wider).unwrap();
    assert!(site.replica.take_events().is_empty());
}

#[test]
fn renamed_and_dropped_columns_keep_their_values() {
    let mut site = Site::new(1);
    site.run("INSERT INTO keyed VALUES ('a', 1, 'kept', 2)");
    let mut changed = schema();
    changed.version = 2;
    let keyed = &mut changed.tables[2];
    keyed.name = "renamed".to_owned();
    keyed.columns[2].name = "remark".to_owned();
    // `amount` was dropped and another column now bears its name.
    keyed.columns[3] = column(5, "amount", ColumnType::Text, true);
    site.replica.adopt_schema(changed).unwrap();
    assert_eq!(
        site.text("SELECT remark FROM renamed").as_deref(),
        Some("kept")
    );
    assert_eq!(site.text("SELECT amount FROM renamed"), None);
    site.run("UPDATE renamed SET remark = 'new', amount = 'text'");
    assert_eq!(written(&site.last().deltas[0]), [3, 5]);
}

#[test]
fn a_table_dropped_and_made_again_starts_anew() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    let mut changed = schema();
    changed.version = 2;
    changed.tables[3].id = TableId(6);
    site.replica.adopt_schema(changed).unwrap();
    assert_eq!(site.count("numbered"), 0);
    assert_eq!(site.count("anabranch_dropped_4"), 1);
    site.run("INSERT INTO numbered VALUES (2, 'two')");
    assert_eq!(site.last().deltas[0].table, TableId(6));
}

#[test]
fn a_name_given_up_long_ago_is_free_again() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    let mut without = schema();
    without.version = 2;
    let mut numbered = without.tables.pop().unwrap();
    site.replica.adopt_schema(without.clone()).unwrap();
    assert_eq!(site.count("numbered"), 1, "it stays readable");
    numbered.id = TableId(6);
    without.version = 3;
    without.tables.push(numbered);
    site.replica.adopt_schema(without).unwrap();
    assert_eq!(site.count("numbered"), 0);
    assert_eq!(site.count("anabranch_dropped_4"), 1);
}

#[test]
fn who_signs_out_leaves_nothing_in_dropped_tables() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'private')");
    let mut without = schema();
    without.version = 2;
    without.tables.pop();
    site.replica.adopt_schema(without).unwrap();
    site.replica.sign_out(SignOut::Discard).unwrap();
    assert_eq!(count(&open_foreign(&site.path), "numbered"), 0);
}

#[test]
fn a_local_table_in_the_way_is_named() {
    let mut site = Site::new(1);
    site.foreign()
        .execute_batch("CREATE TABLE fresh(mine)")
        .unwrap();
    let mut changed = schema();
    changed.version = 2;
    let columns = vec![column(1, "id", ColumnType::Text, false)];
    changed
        .tables
        .push(table(TableId(5), "fresh", columns, &[1]));
    let refused = site.replica.adopt_schema(changed).unwrap_err();
    assert!(refused.to_string().contains("fresh"));
    // Nothing of it was done, and capture still works.
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    assert_eq!(site.pending().len(), 1);
    assert_eq!(site.replica.schema().version, 1);
}

#[test]
fn wide_tables_know_which_columns_changed() {
    let mut wide = schema();
    wide.version = 2;
    let mut columns = vec![column(1, "id", ColumnType::Integer, false)];
    columns.extend((2..=200).map(|id| column(id, &format!("c{id}"), ColumnType::Integer, true)));
    wide.tables.push(table(TableId(5), "wide", columns, &[1]));
    let mut site = Site::new(1);
    site.replica.adopt_schema(wide).unwrap();
    site.run("INSERT INTO wide(id) VALUES (1)");
    site.run("UPDATE wide SET c2 = 1, c61 = 1, c62 = 1, c122 = 1, c200 = 1");
    assert_eq!(written(&site.last().deltas[0]), [2, 61, 62, 122, 200]);
}

#[test]
fn a_merge_is_not_stopped_by_a_required_column_it_does_not_know() {
    let mut site = Site::new(1);
    site.keep_everything();
    let mut other = Site::new(2);
    other.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'one')",
        common::uuid(1)
    ));
    let mut partial = other.last();
    partial.deltas[0].state = partial.deltas[0].state.project(|column| column.0 == 3);
    site.hear(&[partial]);
    assert_eq!(site.count("tasks"), 1);
    assert_eq!(site.text("SELECT title FROM tasks"), None);
    // Nor is the application, in writing what it does know.
    site.run("UPDATE tasks SET done = 1");
    assert_eq!(written(&site.last().deltas[0]), [3]);
}
