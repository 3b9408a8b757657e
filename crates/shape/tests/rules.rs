//! Rules that are declared for tables fit them, or say what would.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anabranch_crdt::{ColumnId, TableId};
use anabranch_shape::{
    Dialect, MergeKind,
    rules::{RuleError, Rules, TableRules, check_kinds},
    schema::{
        Column, ColumnType, DeletePolicy, ForeignKey, ReferencePolicy, ReferentialAction, Schema,
        Table,
    },
};

fn column(id: u16, name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column {
        id: ColumnId(id),
        name: name.to_owned(),
        kind,
        declared_type: format!("{kind:?}").to_lowercase(),
        nullable,
        has_default: false,
        bytewise_order: true,
        merge: MergeKind::Register,
    }
}

fn table(id: u32, name: &str) -> Table {
    Table {
        id: TableId(id),
        namespace: "public".to_owned(),
        name: name.to_owned(),
        columns: vec![
            column(1, "id", ColumnType::Integer, false),
            column(2, "likes", ColumnType::Integer, false),
            column(3, "tags", ColumnType::Json, true),
            column(4, "title", ColumnType::Text, true),
            column(5, "author_id", ColumnType::Integer, false),
            column(6, "editor_id", ColumnType::Integer, true),
        ],
        primary_key: vec![ColumnId(1)],
        foreign_keys: Vec::new(),
        delete: DeletePolicy::Observed,
    }
}

fn schema() -> Schema {
    let mut notes = table(2, "notes");
    let actions = [
        (5, ReferentialAction::Cascade),
        (6, ReferentialAction::SetNull),
    ];
    for (column, on_delete) in actions {
        notes.foreign_keys.push(ForeignKey {
            columns: vec![ColumnId(column)],
            parent: TableId(1),
            parent_columns: vec![ColumnId(1)],
            on_delete,
            policy: ReferencePolicy::Revive,
        });
    }
    Schema {
        version: 1,
        tables: vec![table(1, "authors"), notes],
    }
}

fn problem(rules: TableRules, dialect: Dialect) -> String {
    let mut schema = schema();
    let problems = Rules::new()
        .table("notes", rules)
        .apply(&mut schema, dialect);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn rules_that_fit_show_in_the_schema() {
    let rules = TableRules::new()
        .column("likes", MergeKind::Counter)
        .column("tags", MergeKind::Set)
        .delete(DeletePolicy::WinsOverUpdate)
        .reference("author_id", ReferencePolicy::Cascade)
        .reference(" editor_id", ReferencePolicy::SetNull);
    let rules = Rules::new().table("notes", rules);
    let mut schema = schema();
    assert_eq!(rules.apply(&mut schema, Dialect::Postgres), []);
    let notes = schema.table_named("notes").unwrap();
    assert_eq!(notes.columns[1].merge, MergeKind::Counter);
    assert_eq!(notes.columns[2].merge, MergeKind::Set);
    assert_eq!(notes.delete, DeletePolicy::WinsOverUpdate);
    assert_eq!(notes.foreign_keys[0].policy, ReferencePolicy::Cascade);
    assert_eq!(notes.foreign_keys[1].policy, ReferencePolicy::SetNull);

    let mut again = Rules::new();
    for entry in rules.entries() {
        again.add(&entry).unwrap();
    }
    assert_eq!(again, rules);
}

#[test]
fn rules_that_do_not_fit_say_what_would() {
    let rules = TableRules::new();
    let cases = [
        (
            rules.clone().column("title", MergeKind::Counter),
            "notes.title is text and cannot be a counter; make it an integer type",
        ),
        (
            rules.clone().column("title", MergeKind::Set),
            "notes.title is text and cannot be a set; make it jsonb",
        ),
        (
            rules.clone().column("id", MergeKind::Counter),
            "notes has no column id outside its primary key, for which there is a rule",
        ),
        (
            rules
                .clone()
                .reference("author_id", ReferencePolicy::SetNull),
            "the foreign key notes (author_id) cannot be `set_null`; declare it ON DELETE SET NULL",
        ),
        (
            rules.reference("editor_id", ReferencePolicy::Cascade),
            "the foreign key notes (editor_id) cannot be `cascade`; declare it ON DELETE CASCADE",
        ),
    ];
    for (rules, expected) in cases {
        assert_eq!(problem(rules, Dialect::Postgres), expected);
    }
    let text_set = TableRules::new().column("title", MergeKind::Set);
    let mut sqlite = schema();
    let rules = Rules::new().table("notes", text_set);
    assert_eq!(rules.apply(&mut sqlite, Dialect::Sqlite), []);
    let rules = Rules::new().table("note", TableRules::new());
    let expected = [RuleError::UnknownTable("note".to_owned())];
    assert_eq!(rules.apply(&mut sqlite, Dialect::Sqlite), expected);
}

#[test]
fn a_column_that_is_replicated_keeps_its_kind() {
    let held = schema();
    let mut wanted = schema();
    let counter = TableRules::new().column("likes", MergeKind::Counter);
    let problems = Rules::new()
        .table("notes", counter)
        .apply(&mut wanted, Dialect::Postgres);
    assert_eq!(problems, []);
    let refused = check_kinds(&held, &wanted).unwrap_err().to_string();
    assert!(
        refused.starts_with("notes.likes is replicated as a register"),
        "{refused}"
    );
    assert_eq!(check_kinds(&wanted, &wanted), Ok(()));
    wanted.tables[1].columns[1].id = ColumnId(9);
    assert_eq!(check_kinds(&held, &wanted), Ok(()));
}
