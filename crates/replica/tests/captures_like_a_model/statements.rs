//! Random SQL over the tables: what programs write, and how they fail and change their minds.

use crate::random::Random;

/// Statements that one writer runs together.
#[derive(Debug, Default)]
pub struct Batch {
    pub statements: Vec<String>,
    /// Whether they are one transaction.
    pub together: bool,
    /// Whether it is rolled back at the end; only if `together`.
    pub rolled_back: bool,
    /// Whether it is one update of columns outside keys, so that what it changes can be told.
    pub is_update: bool,
}

impl Batch {
    pub fn new(random: &mut Random) -> Self {
        if random.once_in(5) {
            let statements = vec![update(random, false)];
            return Self {
                statements,
                is_update: true,
                ..Self::default()
            };
        }
        let mut statements: Vec<String> = Vec::new();
        for _ in 0..=random.below(4) {
            statement(random, &mut statements);
        }
        let together = random.once_in(2) || statements.iter().any(|sql| sql.starts_with("SAVE"));
        Self {
            statements,
            together,
            rolled_back: together && random.once_in(4),
            is_update: false,
        }
    }
}

fn statement(random: &mut Random, out: &mut Vec<String>) {
    match random.below(20) {
        0..=7 => out.push(insert(random)),
        8..=11 => out.push(update(random, true)),
        12 => out.push(rekey(random)),
        13 | 14 => out.push(delete(random)),
        15 => out.push(upsert(random)),
        16 => out.push(many(random)),
        17 => swap(random, out),
        18 => {
            out.push("SAVEPOINT inner".to_owned());
            statement(random, out);
            out.push("ROLLBACK TO inner".to_owned());
            out.push("RELEASE inner".to_owned());
        }
        _ => {
            out.push("SAVEPOINT kept".to_owned());
            statement(random, out);
            out.push("RELEASE kept".to_owned());
        }
    }
}

fn or(random: &mut Random) -> &'static str {
    random.pick(&[
        "",
        "",
        "",
        " OR REPLACE",
        " OR REPLACE",
        " OR IGNORE",
        " OR FAIL",
    ])
}

fn insert(random: &mut Random) -> String {
    let or = or(random);
    let (table, columns, row) = row(random);
    format!("INSERT{or} INTO {table}({columns}) VALUES ({row})")
}

/// A row of some table: table, columns, values.
fn row(random: &mut Random) -> (&'static str, String, String) {
    let table = random.pick(&[
        "parent", "child", "linked", "pair", "typed", "slot", "slot", "bare",
    ]);
    row_of(table, random)
}

fn row_of(table: &'static str, random: &mut Random) -> (&'static str, String, String) {
    let (columns, row) = match table {
        "parent" if random.once_in(2) => ("id, name", format!("{}, {}", word(random), any(random))),
        "parent" => {
            let row = format!("{}, {}, {}", word(random), any(random), word(random));
            ("id, name, state", row)
        }
        "child" => ("id, parent, label", referring(random)),
        "linked" => ("id, parent, n", referring(random)),
        "pair" => {
            let key = format!("{}, {}", word(random), small(random));
            (
                "a, b, v, w",
                format!("{key}, {}, {}", any(random), number(random)),
            )
        }
        "typed" => {
            let column = 2 + random.below(14);
            let columns = format!("id, c{column}");
            return (table, columns, format!("{}, {}", uuid(random), any(random)));
        }
        "slot" => {
            let row = format!("{}, {}, {}", small(random), word(random), small(random));
            ("id, name, rank", row)
        }
        _ => ("a", small(random)),
    };
    (table, columns.to_owned(), row)
}

fn referring(random: &mut Random) -> String {
    let parent = if random.once_in(6) {
        "NULL".to_owned()
    } else {
        word(random)
    };
    format!("{}, {parent}, {}", small(random), number(random))
}

/// Several rows by one statement: a later one may fail and take the earlier ones back.
fn many(random: &mut Random) -> String {
    let or = or(random);
    let (table, columns, first) = row(random);
    let mut rows = vec![format!("({first})")];
    for _ in 0..3 {
        let (_, others, row) = row_of(table, random);
        if others == columns {
            rows.push(format!("({row})"));
        }
    }
    format!(
        "INSERT{or} INTO {table}({columns}) VALUES {}",
        rows.join(", ")
    )
}

fn upsert(random: &mut Random) -> String {
    let (id, name, rank) = (small(random), word(random), small(random));
    let act = random.pick(&[
        "NOTHING",
        "UPDATE SET rank = 7",
        "UPDATE SET name = excluded.name",
    ]);
    match random.below(3) {
        0 => format!(
            "INSERT INTO slot(id, name, rank) VALUES ({id}, {name}, {rank}) ON CONFLICT(id) DO {act}"
        ),
        1 => format!(
            "INSERT INTO slot(id, name, rank) VALUES ({id}, {name}, {rank}) ON CONFLICT DO NOTHING"
        ),
        _ => format!(
            "INSERT INTO pair(a, b, v) VALUES ({name}, {id}, 'new') \
             ON CONFLICT(a, b) DO UPDATE SET v = v || excluded.v WHERE b > {rank}"
        ),
    }
}

/// An update of columns outside keys, sometimes to what they are.
fn update(random: &mut Random, may_replace: bool) -> String {
    let or = if may_replace { or(random) } else { "" };
    let condition = if random.once_in(2) {
        format!(" WHERE id = {}", uuid(random))
    } else {
        String::new()
    };
    let some = |random: &mut Random, key: &str| match random.below(3) {
        0 => String::new(),
        1 => format!(" WHERE {key} = {}", small(random)),
        _ => format!(" WHERE {key} >= {}", small(random)),
    };
    let column = 2 + random.below(14);
    match random.below(10) {
        0 => format!("UPDATE{or} parent SET name = {}", any(random)),
        1 => format!(
            "UPDATE{or} parent SET name = name, state = {} WHERE id > {}",
            word(random),
            word(random)
        ),
        2 => format!(
            "UPDATE{or} child SET parent = {}{}",
            word(random),
            some(random, "id")
        ),
        3 => format!("UPDATE{or} linked SET n = n + 1{}", some(random, "id")),
        4 => format!(
            "UPDATE{or} pair SET v = {}, w = {}{}",
            any(random),
            number(random),
            some(random, "b")
        ),
        5 => format!(
            "UPDATE{or} typed SET c{column} = {} WHERE id = {}",
            any(random),
            uuid(random)
        ),
        6 => format!("UPDATE{or} typed SET c{column} = c{column}, c2 = NOT c2{condition}"),
        7 => format!(
            "UPDATE{or} slot SET name = {}{}",
            word(random),
            some(random, "id")
        ),
        8 => format!(
            "UPDATE{or} slot SET rank = {}{}",
            small(random),
            some(random, "id")
        ),
        _ => format!("UPDATE{or} slot SET name = name, rank = rank"),
    }
}

fn rekey(random: &mut Random) -> String {
    let or = or(random);
    match random.below(5) {
        0 => format!(
            "UPDATE{or} slot SET id = {} WHERE id = {}",
            small(random),
            small(random)
        ),
        1 => format!(
            "UPDATE{or} slot SET id = id + 100, name = 'moved' WHERE id < {}",
            small(random)
        ),
        2 => format!(
            "UPDATE{or} pair SET a = {} WHERE b = {}",
            word(random),
            small(random)
        ),
        3 => format!(
            "UPDATE{or} parent SET id = {} WHERE id = {}",
            word(random),
            word(random)
        ),
        _ => format!("UPDATE{or} bare SET a = a + 1 WHERE a = {}", small(random)),
    }
}

/// Two rows change places.
fn swap(random: &mut Random, out: &mut Vec<String>) {
    let (one, other) = (small(random), small(random));
    out.push(format!("UPDATE slot SET id = -1 WHERE id = {one}"));
    out.push(format!("UPDATE slot SET id = {one} WHERE id = {other}"));
    out.push(format!("UPDATE slot SET id = {other} WHERE id = -1"));
}

fn delete(random: &mut Random) -> String {
    match random.below(10) {
        0 => format!(
            "DELETE FROM {}",
            random.pick(&["child", "linked", "pair", "typed", "slot", "bare"])
        ),
        1..=3 => format!("DELETE FROM parent WHERE id = {}", word(random)),
        4 => format!("DELETE FROM typed WHERE id = {}", uuid(random)),
        5 => format!("DELETE FROM pair WHERE b = {}", small(random)),
        6 => format!("DELETE FROM child WHERE id >= {}", small(random)),
        7 => format!("DELETE FROM bare WHERE a = {}", small(random)),
        _ => format!("DELETE FROM slot WHERE id = {}", small(random)),
    }
}

fn small(random: &mut Random) -> String {
    random.below(8).to_string()
}

fn word(random: &mut Random) -> String {
    let word = random.pick(&["'a'", "'A'", "'b'", "'c'", "''", "'d''e'"]);
    word.to_owned()
}

/// Sometimes not spelled as the engine spells it.
fn uuid(random: &mut Random) -> String {
    let digit = random.below(5);
    match random.below(8) {
        0 => format!("'{{0B6E0D1A-0000-4000-8000-00000000000{digit}}}'"),
        1 => format!("x'0b6e0d1a000040008000{:012x}'", digit),
        _ => format!("'0b6e0d1a-0000-4000-8000-00000000000{digit}'"),
    }
}

fn number(random: &mut Random) -> String {
    let number = random.pick(&[
        "NULL",
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "9007199254740993",
        "1.50",
        "'1.50'",
        "-0.0",
        "1e308",
        "5e-324",
        "1e999",
        "-1e999",
    ]);
    number.to_owned()
}

/// Any value at all.
fn any(random: &mut Random) -> String {
    match random.below(9) {
        0 => "NULL".to_owned(),
        1 | 2 => number(random),
        3 => "x'00ff00'".to_owned(),
        4 => "x''".to_owned(),
        5 => "'a' || char(0) || 'b'".to_owned(),
        6 => "char(128512, 10, 233)".to_owned(),
        7 if random.once_in(12) => "hex(zeroblob(500000))".to_owned(),
        7 => "'true'".to_owned(),
        _ => word(random),
    }
}
