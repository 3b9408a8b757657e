//! Filters as SQL: made from the compiled condition and the schema's names, every value bound.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use anabranch_crdt::Value;
use anabranch_shape::{Dialect, Predicate, Sql};
use common::items;

fn render(filter: &str, dialect: Dialect, first_parameter: usize) -> Option<Sql> {
    let predicate = Predicate::parse(filter, &items(), &[]).unwrap();
    predicate.to_sql(&items(), dialect, first_parameter)
}

fn check(filter: &str, dialect: Dialect, text: &str, parameters: &[Value]) {
    let sql = render(filter, dialect, 1).unwrap();
    assert_eq!(
        (sql.text.as_str(), sql.parameters.as_slice()),
        (text, parameters),
        "{filter}"
    );
}

#[test]
fn postgres_casts_every_parameter_from_text() {
    for (filter, text, parameter) in [
        (
            "points < 40000",
            r#"("points" < $1::text::bigint)"#,
            "40000",
        ),
        ("done", r#"("done" = $1::text::boolean)"#, "true"),
        (
            "weight > '-inf'",
            r#"("weight" > $1::text::double precision)"#,
            "-Infinity",
        ),
        (
            "weight = 1e300",
            r#"("weight" = $1::text::double precision)"#,
            "1e300",
        ),
        ("ratio = 1.1", r#"("ratio" = $1::text::real)"#, "1.1e0"),
        ("price >= 1.50", r#"("price" >= $1::text::numeric)"#, "1.5"),
        ("name <> 'x'", r#"("name" <> $1::text)"#, "x"),
        ("state = 'sad'", r#"("state"::text = $1::text)"#, "sad"),
        (
            r"data = '\x00FF'",
            r#"("data" = $1::text::bytea)"#,
            r"\x00ff",
        ),
        (
            "due = '2026-01-02'",
            r#"("due" = $1::text::date)"#,
            "2026-01-02",
        ),
        ("at = '10:00'", r#"("at" = $1::text::time)"#, "10:00:00"),
        (
            "made = '2026-01-02'",
            r#"("made" = $1::text::timestamp)"#,
            "2026-01-02 00:00:00",
        ),
        (
            "seen = '2026-01-02 01:00:00+01'",
            r#"("seen" = $1::text::timestamptz)"#,
            "2026-01-02 00:00:00+00",
        ),
        (
            r"name LIKE 'a!%\%' ESCAPE '!'",
            r#"("name" LIKE $1::text)"#,
            r"a\%\\%",
        ),
    ] {
        check(filter, Dialect::Postgres, text, &[Value::text(parameter)]);
    }
}

#[test]
fn conditions_keep_their_structure() {
    check(
        "NOT (done OR points IN (2, 1)) AND meta IS NULL AND (goal = 3) IS UNKNOWN",
        Dialect::Postgres,
        r#"((NOT (("done" = $1::text::boolean) OR ("points" IN ($2::text::bigint, $3::text::bigint)))) AND ("meta" IS NULL) AND (("goal" = $4::text::bigint) IS UNKNOWN))"#,
        &["true", "1", "2", "3"].map(Value::text),
    );
    check(
        "name < \"Odd \"\"Name\" OR name IS NOT DISTINCT FROM 'x' OR NULL",
        Dialect::Postgres,
        r#"(("name" COLLATE "C" < "Odd ""Name") OR (NOT ("name" IS DISTINCT FROM $1::text)) OR NULL)"#,
        &[Value::text("x")],
    );
    check(
        "name = 'x' AND name LIKE '%[_]' AND (goal = 3) IS UNKNOWN",
        Dialect::Sqlite,
        r#"(("name" COLLATE BINARY = ?1) AND ("name" GLOB ?2) AND (("goal" = ?3) IS NULL))"#,
        &[Value::text("x"), Value::text("*[[]?]"), Value::Integer(3)],
    );
}

#[test]
fn parameters_are_numbered_from_where_the_caller_says() {
    let sql = render("points BETWEEN 1 AND 2", Dialect::Postgres, 5).unwrap();
    assert_eq!(
        sql.text,
        r#"(("points" >= $5::text::bigint) AND ("points" <= $6::text::bigint))"#
    );
}

#[test]
fn text_from_outside_never_becomes_sql() {
    let attack = "x' OR TRUE; DROP TABLE items; --";
    let parameters = [("who".to_owned(), Value::text(attack))];
    let predicate = Predicate::parse("name = :who", &items(), &parameters).unwrap();
    let sql = predicate.to_sql(&items(), Dialect::Postgres, 1).unwrap();
    assert_eq!(sql.text, r#"("name" = $1::text)"#);
    assert_eq!(sql.parameters, [Value::text(attack)]);
}

#[test]
fn a_column_that_is_gone_cannot_be_rendered() {
    let mut table = items();
    let predicate = Predicate::parse("points = 1", &table, &[]).unwrap();
    table.columns.retain(|column| column.name != "points");
    assert_eq!(predicate.to_sql(&table, Dialect::Postgres, 1), None);
}
