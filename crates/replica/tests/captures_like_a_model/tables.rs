//! The tables that histories write to, and what their user adds to them. No statement lies here.

use anabranch_crdt::{ColumnId, TableId};
use anabranch_shape::schema::{Column, ColumnType, ForeignKey, ReferentialAction, Schema, Table};

use crate::{
    common::{column, table},
    random::Random,
};

/// Every type that a column can have.
const KINDS: [ColumnType; 14] = [
    ColumnType::Boolean,
    ColumnType::Integer,
    ColumnType::Float,
    ColumnType::Numeric,
    ColumnType::Text,
    ColumnType::Uuid,
    ColumnType::Bytes,
    ColumnType::Date,
    ColumnType::Time,
    ColumnType::Timestamp,
    ColumnType::TimestampTz,
    ColumnType::Json,
    ColumnType::Enum,
    ColumnType::Other,
];

/// A parent, children that follow it and children that outlive it; a composite key; every type; a
/// table for UNIQUE indexes of the user's; one for triggers of the user's to write to; one that is
/// all key.
pub fn schema() -> Schema {
    use ColumnType::{Integer, Numeric, Text};
    let mut typed = vec![column(1, "id", ColumnType::Uuid, false)];
    typed.extend(
        (2..)
            .zip(KINDS)
            .map(|(id, kind)| column(id, &format!("c{id}"), kind, true)),
    );
    let plain = |id, name, kind, other: Vec<Column>| {
        let columns = [vec![column(1, "id", kind, false)], other].concat();
        table(TableId(id), name, columns, &[1])
    };
    let referring = |id, name, label, on_delete| {
        let columns = vec![
            column(2, "parent", Text, true),
            column(3, label, Integer, true),
        ];
        let mut child = plain(id, name, Integer, columns);
        child.foreign_keys.push(ForeignKey {
            columns: vec![ColumnId(2)],
            parent: TableId(1),
            parent_columns: vec![ColumnId(1)],
            on_delete,
            policy: Default::default(),
        });
        child
    };
    let mut stated = column(3, "state", Text, false);
    stated.has_default = true;
    let slot = vec![
        column(2, "name", Text, true),
        column(3, "rank", Integer, true),
    ];
    let pair = vec![
        column(1, "a", Text, false),
        column(2, "b", Integer, false),
        column(3, "v", Text, true),
        column(4, "w", Numeric, true),
    ];
    Schema {
        version: 1,
        tables: vec![
            plain(
                1,
                "parent",
                Text,
                vec![column(2, "name", Text, false), stated],
            ),
            referring(2, "child", "label", ReferentialAction::Cascade),
            referring(3, "linked", "n", ReferentialAction::SetNull),
            table(TableId(4), "pair", pair, &[1, 2]),
            table(TableId(5), "typed", typed, &[1]),
            plain(6, "slot", Integer, slot),
            plain(7, "journal", Integer, vec![column(2, "said", Text, true)]),
            table(
                TableId(8),
                "bare",
                vec![column(1, "a", Integer, false)],
                &[1],
            ),
        ],
    }
}

/// Its columns in their order, quoted where need be: none of these names needs it.
pub fn columns(table: &Table) -> String {
    let names: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
    names.join(", ")
}

/// What the user of the file adds to it before anything is written.
pub fn additions(random: &mut Random) -> Vec<String> {
    let all = [
        "CREATE UNIQUE INDEX slot_name ON slot(name)",
        "CREATE UNIQUE INDEX slot_rank ON slot(rank) WHERE rank > 1",
        "CREATE UNIQUE INDEX slot_both ON slot(name COLLATE NOCASE, rank DESC)",
        "CREATE UNIQUE INDEX slot_shout ON slot(id % 5, upper(name), rank)",
        "CREATE INDEX pair_v ON pair(v)",
        "CREATE TRIGGER pair_told AFTER UPDATE ON pair BEGIN \
         INSERT INTO journal(said) VALUES (NEW.a || ' changed'); END",
        "CREATE TRIGGER child_told BEFORE DELETE ON child BEGIN \
         INSERT OR REPLACE INTO journal(id, said) VALUES (OLD.id, 'went'); END",
        "CREATE TRIGGER linked_touches AFTER INSERT ON linked BEGIN \
         UPDATE parent SET name = name || '.' WHERE id = NEW.parent; END",
        "ALTER TABLE slot ADD COLUMN mine DEFAULT 0",
    ];
    let rebuilt = ["pair", "typed", "slot"];
    let mut out: Vec<String> = Vec::new();
    for table in rebuilt {
        if random.once_in(4) {
            out.extend(rebuild(&schema(), table, random.once_in(2)));
        }
    }
    out.extend(
        all.iter()
            .filter(|_| random.once_in(3))
            .map(|sql| (*sql).to_owned()),
    );
    out
}

/// A table made anew and put in the place of the old one, as schema tools do it. What hung on the
/// old one, the capture triggers too, goes.
pub fn rebuild(schema: &Schema, name: &str, without_rowid: bool) -> Vec<String> {
    let table = schema.table_named(name).unwrap();
    let definitions = table.columns.iter().map(|column| {
        let kind = anabranch_replica::tables::values::declared_type(column.kind);
        let not_null = if table.is_key(column.id) {
            " NOT NULL"
        } else {
            ""
        };
        format!("{} {kind}{not_null}", column.name)
    });
    let key: Vec<&str> = table.key_columns().map(|column| &*column.name).collect();
    let option = if without_rowid { " WITHOUT ROWID" } else { "" };
    let (definitions, columns) = (definitions.collect::<Vec<_>>().join(", "), columns(table));
    vec![
        format!(
            "CREATE TABLE rebuilt({definitions}, PRIMARY KEY ({})){option}",
            key.join(", ")
        ),
        format!("INSERT INTO rebuilt({columns}) SELECT {columns} FROM {name}"),
        format!("DROP TABLE {name}"),
        format!("ALTER TABLE rebuilt RENAME TO {name}"),
    ]
}
