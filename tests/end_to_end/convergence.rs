//! Three replicas and a direct SQL writer, a thousand random transactions, on and off line: at the end
//! all hold the same.

use anabranch_testkit::{cluster::shared_cluster, sim::Rng};
use tempfile::TempDir;

use crate::world::{Database, Editor, equal, postgres_text, sqlite_text, word};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('calm', 'rough');
    CREATE TABLE team (id integer PRIMARY KEY, name text);
    CREATE TABLE item (
        id uuid PRIMARY KEY,
        team integer REFERENCES team ON DELETE SET NULL,
        title text NOT NULL,
        price numeric(10, 2),
        ratio double precision,
        open boolean NOT NULL DEFAULT true,
        state mood,
        seen timestamptz,
        extra jsonb,
        raw bytea
    );
    CREATE TABLE tag (
        item uuid REFERENCES item ON DELETE CASCADE,
        label text,
        weight integer CHECK (weight >= 0),
        PRIMARY KEY (item, label)
    );
    INSERT INTO team SELECT n, 'team ' || n FROM generate_series(0, 3) AS n;
";
const TRANSACTIONS: usize = 1000;

fn uuid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// SQL that SQLite and Postgres both take.
fn statement(rng: &mut Rng) -> String {
    let (team, item, word) = (rng.below(5), uuid(rng.below(25)), word(rng));
    let weight = rng.below(30).cast_signed() - i64::from(rng.chance(20)) * 30;
    match rng.below(12) {
        0 => format!(
            "INSERT INTO team VALUES ({team}, '{word}') \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        ),
        1..4 => format!(
            "INSERT INTO item (id, team, title, price, ratio, state, seen, extra, raw) \
             VALUES ('{item}', {}, '{word}', '{}.5', 0.{}, 'calm', '2026-11-20T10:00:0{}Z', \
             '{{\"n\":  {}}}', NULL) ON CONFLICT (id) DO UPDATE SET title = excluded.title",
            rng.below(4),
            rng.below(100),
            rng.below(1000),
            rng.below(10),
            rng.below(9),
        ),
        4 => format!("UPDATE item SET title = '{word}' WHERE id = '{item}'"),
        5 => format!(
            "UPDATE item SET price = {}, state = 'rough' WHERE id = '{item}'",
            rng.below(99)
        ),
        6 => format!("UPDATE item SET seen = NULL, extra = '[{team}, 2]' WHERE id = '{item}'"),
        7 => format!("UPDATE item SET ratio = ratio * 1.5 WHERE id > '{item}'"),
        8 => format!(
            "INSERT INTO tag VALUES ('{item}', 'l{team}', {weight}) \
             ON CONFLICT (item, label) DO UPDATE SET weight = excluded.weight"
        ),
        9 => format!("UPDATE tag SET weight = {weight} WHERE label = 'l{team}'"),
        10 => format!("DELETE FROM tag WHERE label = 'l{team}' AND item < '{item}'"),
        _ if rng.chance(200) => format!("DELETE FROM team WHERE id = {team}"),
        _ => format!("DELETE FROM item WHERE id = '{item}'"),
    }
}

/// Lets replicas and a SQL writer write, and replicas go off line and come back; returns how many
/// local transactions did anything.
async fn write_at_random(database: &Database, editors: &mut [Editor]) -> u64 {
    let mut rng = Rng::new(20_261_120);
    let mut committed = 0;
    for _ in 0..TRANSACTIONS {
        let statements: Vec<String> = (0..=rng.below(3)).map(|_| statement(&mut rng)).collect();
        let sql = statements.join(";\n");
        let writer = usize::try_from(rng.below(4)).unwrap();
        if let Some(editor) = editors.get_mut(writer) {
            committed += u64::from(editor.write(&sql));
        } else {
            // A statement that Postgres refuses takes its transaction with it, as it should.
            let _ = database
                .sql
                .batch_execute(&format!("BEGIN; {sql}; COMMIT"))
                .await;
            let _ = database.sql.batch_execute("ROLLBACK").await;
        }
        if rng.chance(30) {
            let editor = &mut editors[usize::try_from(rng.below(3)).unwrap()];
            if editor.is_online() {
                editor.go_offline().await;
            } else {
                editor.go_online();
            }
        }
    }
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_and_a_sql_writer_converge_over_a_thousand_transactions() {
    let database = Database::new(shared_cluster(), TABLES).await;
    let service = database.serve("127.0.0.1:0".parse().unwrap()).await;
    let folder = TempDir::new().unwrap();
    let whole = [("team", None), ("item", None), ("tag", None)];
    let part = [
        ("team", None),
        (
            "item",
            Some("price < 50 AND title LIKE 'r%' OR team IN (1, 2)"),
        ),
        ("tag", Some("weight < 10 OR label IN ('l1', 'l3')")),
    ];
    let mut editors = vec![
        Editor::new(&folder, "ann", &service.url(), &whole),
        Editor::new(&folder, "bob", &service.url(), &whole),
        Editor::new(&folder, "eve", &service.url(), &part),
    ];
    for editor in &mut editors {
        editor.settled().await;
    }

    let committed = write_at_random(&database, &mut editors).await;
    assert!(
        committed > 300,
        "only {committed} local transactions did anything"
    );

    let store = database.store().await;
    for editor in &mut editors {
        editor.settled().await;
    }
    for editor in &mut editors {
        equal(&store, editor).await;
    }
    // The same once more without any of the engine's own reading: what SQL sees on both sides.
    let items = "SELECT CAST(id AS text), title, CAST(price AS text), CAST(state AS text), \
                 CAST(seen AS text), CAST(extra AS text) FROM item ORDER BY 1";
    let tags = "SELECT CAST(item AS text), label, CAST(weight AS text) FROM tag ORDER BY 1, 2";
    for sql in [items, tags] {
        let expected = postgres_text(&database, sql).await;
        assert!(!expected.is_empty());
        for editor in &mut editors[..2] {
            assert_eq!(sqlite_text(editor, sql), expected);
        }
    }
    // Every local transaction has exactly one outcome, in the store and on its replica.
    let outcomes = database
        .count("SELECT count(*) FROM anabranch.marks WHERE code IS NOT NULL")
        .await;
    let mut rejected = 0;
    for editor in &mut editors {
        rejected += editor.with(|replica| replica.rejected_list().unwrap().len());
    }
    assert!(outcomes <= i64::try_from(rejected).unwrap());
    service.stop().await;
}
