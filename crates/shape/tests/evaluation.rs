//! What filters say of rows: true, false or unknown, as Postgres would.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use anabranch_crdt::Value;
use anabranch_shape::Predicate;
use common::{Row, items, row};

const T: Option<bool> = Some(true);
const F: Option<bool> = Some(false);
const U: Option<bool> = None;

fn evaluate(filter: &str, row: &Row, parameters: &[(String, Value)]) -> Option<bool> {
    let predicate = Predicate::parse(filter, &items(), parameters)
        .unwrap_or_else(|error| panic!("{filter}: {error}"));
    predicate.evaluate(&|column| row.get(&column))
}

fn check(row: &Row, table: &[(&str, Option<bool>)]) {
    for (filter, expect) in table {
        assert_eq!(evaluate(filter, row, &[]), *expect, "{filter}");
    }
}

#[test]
fn three_valued_logic() {
    let row = row([("points", 3.into_value()), ("done", 1.into_value())]);
    check(
        &row,
        &[
            ("done", T),
            ("NOT done", F),
            ("done AND goal = 1", U),
            ("NOT done AND goal = 1", F),
            ("done OR goal = 1", T),
            ("NOT done OR goal = 1", U),
            ("NOT goal = 1", U),
            ("TRUE", T),
            ("NULL", U),
            ("NOT NULL", U),
            ("NULL OR TRUE", T),
            ("NULL AND FALSE", F),
            ("goal = NULL", U),
            ("points = NULL", U),
            ("goal IS NULL", T),
            ("points IS NULL", F),
            ("points IS NOT NULL", T),
            ("NULL IS NULL", T),
            ("meta IS NULL", T),
            ("tags IS NOT NULL", F),
            ("goal = 1 IS UNKNOWN", T),
            ("(goal = 1) IS NULL", T),
            ("(points = 1) IS NOT NULL", T),
            ("goal = 1 IS NOT UNKNOWN", F),
            ("goal = 1 IS TRUE", F),
            ("goal = 1 IS NOT TRUE", T),
            ("points = 1 IS FALSE", T),
            ("points = 1 IS NOT FALSE", F),
            ("done IS TRUE", T),
            ("goal IN (1, 2)", U),
            ("points IN (1, 2, 3)", T),
            ("points IN (1, 2)", F),
            ("points IN (1, NULL)", U),
            ("points IN (3, NULL)", T),
            ("points NOT IN (1, NULL)", U),
            ("points NOT IN (3, NULL)", F),
            ("points IN (NULL)", U),
            ("points IN (goal, 3)", T),
            ("points IN (goal, 4)", U),
            ("points BETWEEN 1 AND NULL", U),
            ("points BETWEEN 4 AND NULL", F),
            ("points NOT BETWEEN 4 AND NULL", T),
            ("points IS DISTINCT FROM NULL", T),
            ("goal IS DISTINCT FROM NULL", F),
            ("goal IS DISTINCT FROM 1", T),
            ("points IS NOT DISTINCT FROM 3", T),
            ("points IS DISTINCT FROM goal", T),
            ("goal IS NOT DISTINCT FROM goal", T),
        ],
    );
}

#[test]
fn precedence_and_writing_are_as_in_postgres() {
    let row = row([
        ("points", 3.into_value()),
        ("goal", 5.into_value()),
        ("done", 0.into_value()),
        ("name", Value::text("it's")),
        ("Odd \"Name", Value::text("x")),
    ]);
    check(
        &row,
        &[
            ("done AND done OR points = 3", T),
            ("done AND (done OR points = 3)", F),
            ("NOT done AND points = 3", T),
            ("NOT points = 4", T),
            ("NOT points IN (3)", F),
            ("points BETWEEN 1 AND 3 AND NOT done", T),
            ("points IS DISTINCT FROM 3 AND done", F),
            ("points IS DISTINCT FROM 4 AND NOT done", T),
            ("POINTS = 3 and Points<>4", T),
            ("\"points\" != 4", T),
            ("items.points = 3", T),
            ("public.items.points = 3", T),
            ("3 = points", T),
            ("2 < points", T),
            ("4 <= points", F),
            ("points < goal", T),
            ("goal < points", F),
            ("goal >= points", T),
            ("points>-1", T),
            ("points=+3", T),
            ("points > -(1)", T),
            ("((points)) = (3)", T),
            ("points -- a comment\n = /* another */ 3", T),
            ("name = 'it''s'", T),
            ("\"Odd \"\"Name\" = 'x'", T),
            ("4 BETWEEN points AND goal", T),
            ("points = 3.0", T),
            ("points = 3e0", T),
            ("points = '3'", T),
            ("points = 3::bigint", T),
            ("points = CAST('3' AS integer)", T),
            ("points = -(-3)", T),
            ("done = 'no'", T),
            ("done = FALSE", T),
            ("done < TRUE", T),
        ],
    );
}

#[test]
fn each_type_compares_as_in_postgres() {
    let row = row([
        ("name", Value::text("Zebra")),
        ("title", Value::text("zebra")),
        ("weight", Value::real(f64::NAN)),
        ("ratio", Value::real(1.1)),
        ("price", Value::text("10.5000")),
        ("cost", Value::text("NaN")),
        ("ref", Value::text("018f6f3e-5c1a-7b2d-9e4f-0123456789ab")),
        ("data", Value::Blob(vec![1, 0xff])),
        ("due", Value::text("2026-02-28")),
        ("at", Value::text("18:30:00.5")),
        ("made", Value::text("2026-02-28 18:30:00")),
        ("seen", Value::text("2026-02-28 18:30:00.25+00")),
        ("state", Value::text("happy")),
    ]);
    check(
        &row,
        &[
            ("name < 'apple'", T),
            ("name BETWEEN 'A' AND 'a'", T),
            ("title = 'Zebra'", F),
            ("title <> name", T),
            ("weight = 'NaN'", T),
            ("weight > 'Infinity'", T),
            ("weight = 1.5", F),
            ("ratio = 1.1", T),
            ("ratio = 1.10000000001", T),
            ("ratio < 1.2", T),
            ("price = 10.5", T),
            ("price = '1.05e1'", T),
            ("price > 9", T),
            ("price < 10.50001", T),
            ("price IN (1, 10.50)", T),
            ("cost = 'NaN'", T),
            ("cost > 'Infinity'", T),
            ("price < cost", T),
            ("ref = '018F6F3E5C1A7B2D9E4F0123456789AB'", T),
            ("ref > '018f6f3e-5c1a-7b2d-9e4f-000000000000'::uuid", T),
            (r"data = '\x01ff'", T),
            (r"data > '\x01'::bytea", T),
            ("due = '2026-02-28'", T),
            ("due > DATE '2026-02-27'", T),
            ("due < 'infinity'", T),
            ("due > '0044-03-15 BC'", T),
            ("due < '10000-01-01'", T),
            ("at = '18:30:00.500'", T),
            ("at < TIME '24:00:00'", T),
            ("made = '2026-02-28T18:30'", T),
            ("made >= TIMESTAMP '2026-02-28'", T),
            ("seen = '2026-02-28 19:30:00.25+01:00'", T),
            (
                "seen < TIMESTAMP WITH TIME ZONE '2026-02-28 18:30:00.3Z'",
                T,
            ),
            ("seen > '2026-02-28 18:30:00+00'::timestamptz", T),
            ("seen IN ('2026-02-28 18:30:00.250+00')", T),
            ("state = 'happy'", T),
            ("state IN ('sad', 'unheard of')", F),
        ],
    );
}

#[test]
fn like_matches_text_by_characters_and_minds_the_case() {
    let row = row([
        ("name", Value::text("50% o_f")),
        ("title", Value::text("\u{e9}t\u{e9}")),
    ]);
    check(
        &row,
        &[
            ("name LIKE '50%'", T),
            ("name LIKE '50!% %' ESCAPE '!'", T),
            (r"name LIKE '%\_f'", T),
            (r"name LIKE '50\% o__'", T),
            ("name LIKE '%O%'", F),
            ("name NOT LIKE 'x%'", T),
            ("title LIKE '_t_'", T),
            ("name LIKE NULL", U),
            ("\"Odd \"\"Name\" LIKE '%'", U),
        ],
    );
}

#[test]
fn parameters_stand_for_their_values() {
    let parameters = [
        ("me".to_owned(), Value::text("ann' OR TRUE --")),
        ("least".to_owned(), Value::Integer(3)),
        ("yes".to_owned(), Value::Integer(1)),
        ("none".to_owned(), Value::Null),
        ("half".to_owned(), Value::real(0.5)),
        ("bytes".to_owned(), Value::Blob(vec![7])),
        ("Case".to_owned(), Value::Integer(9)),
    ];
    let row = row([
        ("name", Value::text("ann' OR TRUE --")),
        ("points", 3.into_value()),
        ("done", 1.into_value()),
        ("weight", Value::real(0.5)),
        ("price", Value::text("0.50")),
        ("data", Value::Blob(vec![7])),
    ]);
    for (filter, expect) in [
        ("name = :me", T),
        ("title = :me", U),
        ("points >= :least", T),
        ("points>=:least::bigint", T),
        ("points IN (:least)", T),
        ("done = :yes", T),
        (":yes", T),
        (":yes AND NOT done", F),
        ("points = :none", U),
        ("weight = :half", T),
        ("price = :half", T),
        ("price < :least", T),
        ("data = :bytes", T),
        ("points < :Case", T),
        ("name LIKE :me", T),
    ] {
        assert_eq!(evaluate(filter, &row, &parameters), expect, "{filter}");
    }
}

#[test]
fn a_value_that_the_type_cannot_hold_counts_as_null() {
    let row = row([
        ("points", Value::text("three")),
        ("due", Value::text("soon")),
    ]);
    check(
        &row,
        &[
            ("points = 3", U),
            ("due < 'infinity'", U),
            ("points IS NULL", F),
        ],
    );
}

trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for i64 {
    fn into_value(self) -> Value {
        Value::Integer(self)
    }
}
