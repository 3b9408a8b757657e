//! What a filter may not contain, each with the message that says why and what is accepted.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use anabranch_crdt::Value;
use anabranch_shape::{Predicate, limits};
use common::items;

fn refusal(filter: &str) -> String {
    let parameters = [
        ("me".to_owned(), Value::text("ann")),
        ("n".to_owned(), Value::Integer(5)),
    ];
    match Predicate::parse(filter, &items(), &parameters) {
        Ok(predicate) => panic!("accepted {filter}: {predicate:?}"),
        Err(error) => error.to_string(),
    }
}

fn check(table: &[(&str, &str)]) {
    for (filter, expect) in table {
        let message = refusal(filter);
        assert!(
            message.contains(expect),
            "{filter}\n  says  {message}\n  wants {expect}"
        );
    }
}

#[test]
fn constructs_outside_the_language() {
    check(&[
        (
            "id IN (SELECT 1)",
            "line 1, column 8: a subquery cannot be part of a shape's filter",
        ),
        ("EXISTS (SELECT 1)", "a subquery"),
        ("lower(name) = 'x'", "line 1, column 1: the function lower"),
        ("now() > made", "the function now"),
        ("made > current_timestamp", "the current time"),
        (
            "name = current_user",
            "the current user (pass a :parameter)",
        ),
        ("points + 1 = 2", "the operator +"),
        (
            "points = -'3'",
            "the operator - before anything but a number",
        ),
        ("points * 2 = 4", "`*`"),
        ("name || 'x' = 'yx'", "`||`"),
        ("-points = 3", "a sign or a cast on a column"),
        (
            "name = $1",
            "the positional parameter $1 (name it instead, as in :owner)",
        ),
        ("name ILIKE 'x'", "ILIKE"),
        ("name SIMILAR TO 'x'", "SIMILAR TO"),
        ("name ~ 'x'", "`~`"),
        ("name COLLATE \"C\" < 'x'", "COLLATE"),
        ("CASE WHEN done THEN TRUE END", "CASE"),
        ("id = ANY (1)", "ANY, ALL or SOME (write IN)"),
        ("id = ARRAY[1]", "an array"),
        ("points BETWEEN SYMMETRIC 3 AND 1", "BETWEEN SYMMETRIC"),
        ("name = E'x'", "a string with escapes"),
        ("name = U&'x'", "a string with escapes"),
        ("name = $$x$$", "`$$x$$`"),
        ("data = X'00'", "`X'00'`"),
        ("meta -> 'a' IS NULL", "`->`"),
        ("points::text = '3'", "a sign or a cast on a column"),
        ("CAST(points AS text) = '3'", "a sign or a cast on a column"),
        ("points = '3'::text::integer", "a cast of a cast"),
        ("made = '10:00'::interval", "a cast to"),
        ("price = 1::numeric(10,2)", "a cast to"),
        ("(id, points) = (1, 2)", "a list of columns"),
        (
            "done = (points = 1)",
            "a condition as one side of a comparison",
        ),
        (
            "points = goal = id",
            "a condition as one side of a comparison",
        ),
        (
            "1 = 1",
            "a comparison without a column (write TRUE or FALSE)",
        ),
        (":me = 'ann'", "a comparison without a column"),
        ("3 IN (points)", "IN without a column on its left"),
        ("name LIKE title", "LIKE with a column as its pattern"),
        ("name = 'a'; DROP TABLE items", "`;`"),
        ("id[1] = 2", "`[`"),
        ("@id = 2", "`@`"),
    ]);
}

#[test]
fn what_is_no_condition_at_all() {
    check(&[
        ("", "Expected: an expression"),
        ("  -- nothing\n", "Expected: an expression"),
        ("points =", "Expected: an expression"),
        (
            "points = 3 points",
            "line 1, column 12: the filter goes on after its end, at \"points\"",
        ),
        ("points = 3 AND\n (done", "Expected: ), found: EOF"),
        (
            "points = 3) OR TRUE",
            "line 1, column 11: the filter goes on after its end",
        ),
        ("points IN ()", "Expected: an expression"),
        (
            "name = 'open",
            "line 1, column 8: Unterminated string literal",
        ),
        ("points IS JSON", "after IS"),
        ("points IS NORMALIZED", "after IS"),
        (
            "points",
            "column \"points\" is smallint, not a condition; compare it with something",
        ),
        (
            "points AND done",
            "line 1, column 1: column \"points\" is smallint",
        ),
        ("NOT 'x'", "a value is not a condition"),
        ("5", "a value is not a condition"),
        ("select", "a subquery"),
    ]);
}

#[test]
fn names_that_are_not_there() {
    check(&[
        (
            "pionts = 3",
            "line 1, column 1: table \"items\" has no column \"pionts\"; it has: id, name",
        ),
        ("\"Points\" = 3", "no column \"Points\""),
        (
            "TRUE AND xmin = 3",
            "line 1, column 10: table \"items\" has no column \"xmin\"",
        ),
        (
            "orders.id = 3",
            "line 1, column 1: there is no table \"orders\"; there are: items",
        ),
        (
            "name = :you",
            "line 1, column 8: there is no value for the parameter :you; values were given for: me, n",
        ),
    ]);
}

#[test]
fn values_that_the_column_does_not_take() {
    check(&[
        (
            "points = 'many'",
            "line 1, column 10: 'many' is no value for column \"points\", which is smallint; write one such as 42",
        ),
        ("points = 1.5", "1.5 is no value for column \"points\""),
        ("points = 9223372036854775808", "is no value"),
        ("points = TRUE", "true is no value"),
        (
            "name = 5",
            "5 is no value for column \"name\", which is text; write one such as 'draft'",
        ),
        ("name = :n", "5 is no value"),
        ("points = :me", "'ann' is no value"),
        (
            "done = 1",
            "1 is no value for column \"done\", which is boolean; write one such as TRUE",
        ),
        ("done = :n", "5 is no value"),
        ("weight = 1e400", "is no value"),
        ("price = 'ten'", "'ten' is no value"),
        ("ref = 'x'", "write one such as '018f6f3e"),
        ("data = 'x'", r"write one such as '\xc0ffee'"),
        ("due = 'tomorrow'", "write one such as '2026-01-31'"),
        ("due = '2026-02-30'", "is no value"),
        ("made = '2026-01-01 10:00+00'", "is no value"),
        (
            "due = '2026-01-01'::timestamp",
            "the value is cast to a type other than that of column \"due\", which is date",
        ),
        ("points = '3'::text", "the value is cast to a type other"),
        (
            "points = goal AND name = points",
            "columns \"name\" (text) and \"points\" (smallint) do not compare",
        ),
        ("made = seen", "do not compare"),
        ("weight = ratio", "do not compare"),
        (
            "points LIKE '3%'",
            "LIKE takes a column of type text on its left",
        ),
        ("state LIKE 'h%'", "LIKE takes a column of type text"),
        ("name LIKE 'x!' ESCAPE '!'", "must not end with its escape"),
        (
            "name LIKE 'x' ESCAPE 'ab'",
            "ESCAPE takes a string of one character",
        ),
    ]);
}

#[test]
fn comparisons_that_the_type_does_not_allow() {
    check(&[
        (
            "meta = '{}'",
            "column \"meta\" is jsonb, which a filter can only test with IS NULL",
        ),
        ("tags = '{}'", "column \"tags\" is text[]"),
        (
            "state > 'happy'",
            "column \"state\" is an enum, which a filter can only test for equality",
        ),
        (
            "title > 'x'",
            "declare the column COLLATE \"C\" to order by it",
        ),
        ("title BETWEEN 'a' AND 'b'", "COLLATE \"C\""),
        (
            "name < title",
            "text in column \"title\" is ordered by the rules of a language",
        ),
    ]);
}

#[test]
fn limits_hold() {
    let text = format!("name = '{}'", "x".repeat(limits::FILTER_BYTES_MAX));
    assert!(refusal(&text).contains("too many bytes"));
    let depth = limits::FILTER_DEPTH_MAX;
    let nested = format!("{}done{}", "(".repeat(depth), ")".repeat(depth));
    assert!(refusal(&nested).contains("too many levels; at most 16 are allowed"));
    let chain = vec!["done"; limits::FILTER_TESTS_MAX + 1].join(" OR ");
    assert!(refusal(&chain).contains("too many tests"));
    let list = vec!["1"; limits::IN_LIST_MAX + 1].join(",");
    assert!(refusal(&format!("id IN ({list})")).contains("a list of too many values"));
    assert!(refusal(&"- ".repeat(limits::FILTER_TOKENS_MAX)).contains("too many tokens"));
    assert!(refusal("price = 1e1001").contains("is no value"));
    let pattern = "x".repeat(limits::PATTERN_BYTES_MAX + 1);
    assert!(refusal(&format!("name LIKE '{pattern}'")).contains("LIKE pattern of too many bytes"));
    let value = "x".repeat(limits::LITERAL_BYTES_MAX + 1);
    assert!(refusal(&format!("name = '{value}'")).contains("a value of too many bytes"));
}

#[test]
fn as_much_as_the_limits_say_is_accepted() {
    let accept = |filter: &str| Predicate::parse(filter, &items(), &[]).unwrap();
    let depth = limits::FILTER_DEPTH_MAX - 2;
    accept(&format!("{}done{}", "(".repeat(depth), ")".repeat(depth)));
    accept(&vec!["done"; limits::FILTER_TESTS_MAX].join(" AND "));
    accept(&format!(
        "id IN ({})",
        vec!["1"; limits::IN_LIST_MAX].join(",")
    ));
}
