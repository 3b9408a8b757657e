//! Random filters over random rows: what Rust says of a row and what SQLite selects agree, wherever
//! SQLite can say it at all.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use anabranch_crdt::Value;
use anabranch_shape::{Dialect, Predicate};
use common::{COLUMNS, Row, items};
use proptest::{collection::vec, option::weighted, prelude::*, sample::select};
use rusqlite::{Connection, params_from_iter, types};

const INTEGERS: [&str; 6] = [
    "-1",
    "0",
    "1",
    "3",
    "9223372036854775807",
    "-9223372036854775808",
];
const TEXTS: [&str; 9] = ["", "a", "A", "ab", "a%", "*[x]?", "it''s", "\u{e9}", "Z"];
const FLOATS: [&str; 7] = [
    "'NaN'",
    "'Infinity'",
    "'-Infinity'",
    "0",
    "-0.0",
    "1.5",
    "1e300",
];
const UUIDS: [&str; 2] = [
    "'00000000-0000-0000-0000-000000000001'",
    "'ffffffff-0000-0000-0000-000000000001'",
];
const BLOBS: [&str; 4] = [r"'\x'", r"'\x00'", r"'\x00ff'", r"'\xff'"];
const LABELS: [&str; 3] = ["'happy'", "'sad'", "'unheard of'"];
const PATTERNS: [&str; 9] = ["%", "a%", "%a", "_", "A%", r"a\%", "%[x]%", "%?", "__%"];

/// Columns of one kind, and literals to compare them with.
fn operands() -> impl Strategy<Value = (&'static str, &'static str, bool)> {
    prop_oneof![
        (
            select(vec!["id", "points", "goal"]),
            select(INTEGERS.to_vec())
        )
            .prop_map(ordered),
        (select(vec!["id", "points"]), select(vec!["goal", "NULL"])).prop_map(ordered),
        (Just("weight"), select(FLOATS.to_vec())).prop_map(ordered),
        (
            Just("ratio"),
            select(vec!["1.1", "0", "'NaN'", "'Infinity'"])
        )
            .prop_map(ordered),
        (Just("ref"), select(UUIDS.to_vec())).prop_map(ordered),
        (Just("data"), select(BLOBS.to_vec())).prop_map(ordered),
        (Just("done"), select(vec!["TRUE", "FALSE", "NULL"])).prop_map(ordered),
        (Just("state"), select(LABELS.to_vec())).prop_map(|(column, label)| (column, label, false)),
        (Just("name"), select(vec!["\"Odd \"\"Name\"", "name"])).prop_map(ordered),
        (Just("title"), select(vec!["name", "NULL"])).prop_map(|(a, b)| (a, b, false)),
    ]
}

const fn ordered(
    (column, literal): (&'static str, &'static str),
) -> (&'static str, &'static str, bool) {
    (column, literal, true)
}

fn test() -> impl Strategy<Value = String> {
    let operator = select(vec!["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    let ordering = select(vec!["<", "<=", ">", ">="]);
    let texts = || select(TEXTS.to_vec());
    prop_oneof![
        (operands(), operator).prop_map(|((column, with, _), op)| format!("{column} {op} {with}")),
        (operands(), ordering).prop_map(|((column, with, ordered), op)| {
            let op = if ordered { op } else { "=" };
            format!("{with} {op} {column}")
        }),
        (texts(), select(vec!["=", "<", ">=", "<>"]))
            .prop_map(|(t, op)| format!("name {op} '{t}'")),
        (texts(), texts()).prop_map(|(a, b)| format!("name NOT BETWEEN '{a}' AND '{b}'")),
        vec(texts(), 1..4).prop_map(|texts| format!("title IN ('{}')", texts.join("', '"))),
        vec(select(INTEGERS.to_vec()), 1..4)
            .prop_map(|n| format!("points IN ({}, NULL)", n.join(","))),
        vec(select(FLOATS.to_vec()), 1..4).prop_map(|n| format!("weight NOT IN ({})", n.join(","))),
        select(PATTERNS.to_vec()).prop_map(|pattern| format!("name LIKE '{pattern}'")),
        select(PATTERNS.to_vec()).prop_map(|pattern| format!("title NOT LIKE '{pattern}'")),
        select(vec!["name", "meta", "due", "price", "done"]).prop_map(|c| format!("{c} IS NULL")),
        select(vec!["TRUE", "FALSE", "NULL", "done"]).prop_map(str::to_owned),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    test().prop_recursive(4, 24, 3, |inner| {
        let is = select(vec![
            "TRUE",
            "NOT TRUE",
            "FALSE",
            "UNKNOWN",
            "NOT UNKNOWN",
            "NOT NULL",
        ]);
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            vec(inner.clone(), 1..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            inner.clone().prop_map(|inner| format!("NOT ({inner})")),
            (inner, is).prop_map(|(inner, is)| format!("({inner}) IS {is}")),
        ]
    })
}

/// A value for a column, as it travels: what the literal in the same place of the lists becomes.
fn value(name: &str) -> BoxedStrategy<Value> {
    let text = |texts: &'static [&str]| {
        select(texts)
            .prop_map(|text| Value::Text(text.replace("''", "'").trim_matches('\'').to_owned()))
    };
    match name {
        "id" | "points" | "goal" => select(INTEGERS.to_vec())
            .prop_map(|n| Value::Integer(n.parse().unwrap()))
            .boxed(),
        "done" => prop_oneof![Just(Value::Integer(0)), Just(Value::Integer(1))].boxed(),
        "weight" => select(FLOATS.to_vec())
            .prop_map(|n| Value::real(n.trim_matches('\'').parse().unwrap()))
            .boxed(),
        "ratio" => select(vec![1.1, 0.0, f64::NAN, 1e30])
            .prop_map(Value::real)
            .boxed(),
        "ref" => text(&UUIDS).boxed(),
        "state" => text(&LABELS).boxed(),
        "data" => select(vec![vec![], vec![0], vec![0, 255], vec![255]])
            .prop_map(Value::Blob)
            .boxed(),
        "price" | "cost" => Just(Value::text("1.50")).boxed(),
        "due" => Just(Value::text("2026-01-01")).boxed(),
        _ => text(&TEXTS).boxed(),
    }
}

fn row() -> impl Strategy<Value = Row> {
    let cells: Vec<_> = COLUMNS
        .iter()
        .map(|(name, _, _)| weighted(0.8, value(name)))
        .collect();
    cells.prop_map(|cells| {
        let columns = items().columns.into_iter().map(|column| column.id);
        columns
            .zip(cells)
            .filter_map(|(column, cell)| Some((column, cell?)))
            .collect()
    })
}

fn bound(value: &Value) -> types::Value {
    match value {
        Value::Null => types::Value::Null,
        Value::Integer(number) => types::Value::Integer(*number),
        Value::Real(real) => types::Value::Real(real.get()),
        Value::Text(text) => types::Value::Text(text.clone()),
        Value::Blob(bytes) => types::Value::Blob(bytes.clone()),
    }
}

/// What SQLite says of the row, if the filter can be put to it.
fn sqlite_says(predicate: &Predicate, row: &Row) -> Option<Option<bool>> {
    let table = items();
    let sql = predicate.to_sql(&table, Dialect::Sqlite, 1)?;
    let (mut declared, mut values) = (Vec::new(), Vec::new());
    for column in &table.columns {
        declared.push(format!("\"{}\"", column.name.replace('"', "\"\"")));
        values.push(row.get(&column.id).map_or(types::Value::Null, bound));
    }
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute(&format!("CREATE TABLE items ({})", declared.join(", ")), [])
        .unwrap();
    let markers: Vec<String> = (1..=values.len())
        .map(|number| format!("?{number}"))
        .collect();
    let insert = format!("INSERT INTO items VALUES ({})", markers.join(", "));
    connection
        .execute(&insert, params_from_iter(&values))
        .unwrap();
    let query = format!("SELECT {} FROM items", sql.text);
    let parameters = params_from_iter(sql.parameters.iter().map(bound));
    Some(
        connection
            .query_row(&query, parameters, |row| row.get(0))
            .unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn rust_and_sqlite_agree(filter in filter(), row in row()) {
        let predicate = Predicate::parse(&filter, &items(), &[])
            .unwrap_or_else(|error| panic!("{filter}: {error}"));
        let said = predicate.evaluate(&|column| row.get(&column));
        let sqlite = sqlite_says(&predicate, &row);
        prop_assert_eq!(Some(said), sqlite, "{}", filter);
    }
}

#[test]
fn what_sqlite_knows_only_as_text_is_left_to_rust() {
    for filter in [
        "price = 1",
        "cost IN (1)",
        "due < '2026-01-01'",
        "made = seen_at OR done",
    ] {
        let filter = filter.replace("seen_at", "made");
        let predicate = Predicate::parse(&filter, &items(), &[]).unwrap();
        assert_eq!(
            predicate.to_sql(&items(), Dialect::Sqlite, 1),
            None,
            "{filter}"
        );
    }
}
