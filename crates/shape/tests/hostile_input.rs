//! No text, however strange, deep or long, makes the parser panic or run out of stack.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::thread;

use anabranch_crdt::Value;
use anabranch_shape::Predicate;
use common::items;
use proptest::prelude::*;

/// The stack that threads of a server commonly have.
const STACK_BYTES: usize = 2 * 1024 * 1024;

#[test]
fn deep_and_long_texts_are_refused_within_an_ordinary_stack() {
    let units = [
        "(",
        "NOT ",
        "- ",
        "+ ",
        "done = ",
        "done AND (",
        "done OR NOT ",
        "done IS NULL ",
        "done IS DISTINCT FROM ",
        "points - ",
        "CAST(",
        "lower(",
        "1::",
        "a.",
        "x IN (",
        "case(",
        "id BETWEEN 1 AND ",
        "date ",
        "array[",
        "a LIKE b ESCAPE ",
        "interval ",
        "::date",
        "1 + ",
        "struct<",
        "{",
        "IS ",
        "timestamp(",
        "((id),",
        "x(x(",
        "done = NOT ",
        "position(",
        "trim(",
    ];
    let attack = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            for unit in units {
                for count in [30, 60, 1000, 4000] {
                    for text in [unit.repeat(count), format!("done {}", unit.repeat(count))] {
                        assert!(Predicate::parse(&text, &items(), &[]).is_err(), "{unit}");
                    }
                }
            }
            let bracketed = format!("{}done{}", "(".repeat(2000), ")".repeat(2000));
            assert!(Predicate::parse(&bracketed, &items(), &[]).is_err());
            let chain = vec!["done = done"; 1300].join(" = ");
            assert!(Predicate::parse(&chain, &items(), &[]).is_err());
        });
    attack.unwrap().join().unwrap();
}

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "AND",
            "OR",
            "NOT",
            "IN",
            "BETWEEN",
            "LIKE",
            "ESCAPE",
            "IS",
            "NULL",
            "TRUE",
            "DISTINCT",
            "FROM",
            "CAST",
            "AS",
            "DATE",
            "TIMESTAMP",
            "WITH",
            "TIME",
            "ZONE",
            "(",
            ")",
            ",",
            "=",
            "<>",
            "<",
            ">=",
            "-",
            ":",
            "::",
            ".",
            "points",
            "name",
            "due",
            ":n",
            "3",
            "1e9",
            "'x'",
            "'2026-01-01'",
            "date",
            "bigint",
            "\"",
            "'",
            "\\",
            "--",
            "/*",
            "double",
            "precision",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ]
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = Predicate::parse(&text, &items(), &[]);
    }

    #[test]
    fn almost_sql_never_panics(
        fragments in prop::collection::vec(fragment(), 0..40),
        gap in prop::sample::select(vec!["", " "]),
    ) {
        let parameters = [("n".to_owned(), Value::Integer(3))];
        let _ = Predicate::parse(&fragments.join(gap), &items(), &parameters);
    }

    #[test]
    fn arbitrary_values_never_panic(text in "\\PC{0,30}|[-+0-9:. TZeE]{0,30}") {
        let parameters = [("v".to_owned(), Value::text(&text))];
        for (name, _, _) in common::COLUMNS {
            let filter = format!("\"{}\" = :v", name.replace('"', "\"\""));
            if let Ok(predicate) = Predicate::parse(&filter, &items(), &parameters) {
                let value = Value::text(&text);
                let _ = predicate.matches(&|_| Some(&value));
            }
        }
    }
}
