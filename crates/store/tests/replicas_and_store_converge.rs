//! Replicas and the embedded store, with plain SQL writing to all of them and rules that refuse:
//! once everything has been pushed and told, all hold the same rows.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use anabranch_shape::{
    MergeKind,
    rules::{Rules, TableRules},
};
use common::{Site, peer::Peer};
use proptest::prelude::*;

const TABLES: &str = "
    CREATE TABLE team (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE item (
        tenant TEXT NOT NULL, number INTEGER NOT NULL, title TEXT, price NUMERIC CHECK (price < 200),
        team INTEGER REFERENCES team(id) ON DELETE CASCADE, seen INTEGER NOT NULL DEFAULT 0,
        likes INTEGER NOT NULL DEFAULT 2, tags JSON CHECK (tags NOT LIKE '%8%'),
        PRIMARY KEY (tenant, number));
    CREATE TRIGGER item_seen AFTER UPDATE OF title ON item BEGIN
        UPDATE item SET seen = seen + 1, likes = likes + 1
        WHERE tenant = NEW.tenant AND number = NEW.number;
    END;
    INSERT INTO team VALUES (0, 'old');
";

#[derive(Clone, Debug)]
enum Step {
    /// SQL at a replica, or at the store for the last index. It may fail, as an application's may.
    Sql(usize, String),
    Push(usize),
    Listen(usize),
}

fn sql() -> impl Strategy<Value = String> {
    let (row, small, any) = (0..3_u8, 0..3_u8, any::<u8>());
    prop_oneof![
        (row.clone(), any, 0..4_u8).prop_map(|(row, price, team)| format!(
            "INSERT OR REPLACE INTO item(tenant, number, title, price, team, seen) VALUES
             ('t', {row}, 'n', '{price}.50', nullif({team}, 3), 0)"
        )),
        (row.clone(), small.clone()).prop_map(|(row, title)| format!(
            "UPDATE item SET title = 'u{title}' WHERE number = {row}"
        )),
        (row.clone(), any).prop_map(|(row, price)| format!(
            "UPDATE item SET price = {price} WHERE number = {row}"
        )),
        (row.clone(), -3..4_i8).prop_map(|(row, likes)| format!(
            "UPDATE item SET likes = likes + {likes} WHERE number = {row}"
        )),
        (row.clone(), 0..10_u8).prop_map(|(row, tag)| format!(
            "UPDATE item SET tags = json_insert(ifnull(tags, '[]'), '$[#]', {tag})
             WHERE number = {row}"
        )),
        (row.clone(), 0..2_u8).prop_map(|(row, at)| format!(
            "UPDATE item SET tags = json_remove(tags, '$[{at}]') WHERE number = {row}"
        )),
        row.prop_map(|row| format!("DELETE FROM item WHERE number = {row}")),
        (small.clone(), small.clone()).prop_map(|(id, name)| format!(
            "INSERT INTO team VALUES ({id}, 'n{name}')
             ON CONFLICT(id) DO UPDATE SET name = excluded.name"
        )),
        small.prop_map(|id| format!("DELETE FROM team WHERE id = {id}")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, sql()).prop_map(|(site, sql)| Step::Sql(site, sql)),
        2 => (0..2_usize).prop_map(Step::Push),
        2 => (0..2_usize).prop_map(Step::Listen),
    ]
}

fn visible(conn: &rusqlite::Connection) -> Vec<String> {
    let sql = "SELECT 'team' || id || ifnull(name, '-') AS row FROM team UNION ALL
        SELECT 'item' || tenant || number || ifnull(title, '-') || ifnull(price, '-')
            || ifnull(team, '-') || ifnull(seen, '-') || ' ' || ifnull(likes, '-')
            || ifnull(tags, '-') FROM item ORDER BY row";
    let mut query = conn.prepare(sql).unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_everybody_does(steps in prop::collection::vec(step(), 1..40)) {
        let item = TableRules::new()
            .column("likes", MergeKind::Counter)
            .column("tags", MergeKind::Set);
        let mut store = Site::with_rules(TABLES, &Rules::new().table("item", item));
        let mut peers = [1, 2].map(|number| Peer::new(number, &mut store, &["team", "item"]));
        for step in steps {
            match step {
                Step::Sql(2, sql) => {
                    let conn = rusqlite::Connection::open(&store.path).unwrap();
                    conn.pragma_update(None, "foreign_keys", true).unwrap();
                    let _ = conn.execute_batch(&sql);
                }
                Step::Sql(peer, sql) => {
                    let _ = peers[peer].replica.transaction(|tx| tx.execute_batch(&sql));
                }
                Step::Push(peer) => drop(peers[peer].push(&mut store)),
                Step::Listen(peer) => peers[peer].listen(&mut store),
            }
        }
        for peer in &mut peers {
            peer.push(&mut store);
        }
        for peer in &mut peers {
            peer.listen(&mut store);
        }
        for name in ["team", "item"] {
            let truth = store.rows(name);
            for peer in &mut peers {
                let held = peer.replica.row_states(name).unwrap();
                prop_assert_eq!(&held, &truth, "{}", name);
            }
        }
        let truth = visible(&rusqlite::Connection::open(&store.path).unwrap());
        for peer in &peers {
            prop_assert_eq!(peer.replica.status().unwrap().pending, 0);
            prop_assert_eq!(&visible(peer.replica.connection()), &truth);
        }
    }
}
