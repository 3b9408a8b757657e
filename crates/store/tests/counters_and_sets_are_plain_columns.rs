//! Counters and sets as an application meets them: columns that it writes with SQL, on replicas that
//! are offline and in the store's own file, and what is left when a transaction is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use anabranch_crdt::{ColumnId, ColumnState, RowState, Value};
use anabranch_protocol::RejectCode;
use anabranch_shape::{
    MergeKind,
    rules::{Rules, TableRules},
};
use anabranch_store::{MergeOutcome, embedded::EmbeddedCore};
use common::{Site, key, peer::Peer, stamp, upload};

const NOTES: &str = "
    CREATE TABLE notes (
        id INTEGER PRIMARY KEY, likes INTEGER NOT NULL DEFAULT 0 CHECK (likes < 100), tags TEXT,
        title TEXT CHECK (title <> 'bad'));
    INSERT INTO notes VALUES (1, 10, '[\"b\", \"a\"]', 'one');";

fn rules() -> Rules {
    let notes = TableRules::new()
        .column("likes", MergeKind::Counter)
        .column("tags", MergeKind::Set);
    Rules::new().table("notes", notes)
}

fn peers(store: &mut Site) -> [Peer; 2] {
    [1, 2].map(|number| Peer::new(number, store, &["notes"]))
}

fn shown(conn: &rusqlite::Connection) -> String {
    let sql = "SELECT likes || ' ' || tags || ' ' || title FROM notes WHERE id = 1";
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn run(peer: &mut Peer, sql: &str) {
    let done = peer.replica.transaction(|tx| tx.execute_batch(sql));
    done.unwrap();
}

fn everybody_hears(store: &mut Site, peers: &mut [Peer; 2]) -> String {
    for peer in peers.iter_mut() {
        peer.push(store);
    }
    for peer in peers.iter_mut() {
        peer.listen(store);
    }
    let truth = shown(&rusqlite::Connection::open(&store.path).unwrap());
    for peer in peers {
        assert_eq!(shown(peer.replica.connection()), truth);
    }
    truth
}

#[test]
fn what_two_replicas_and_a_sql_writer_do_offline_adds_up() {
    let mut store = Site::with_rules(NOTES, &rules());
    let mut peers = peers(&mut store);
    assert_eq!(shown(peers[0].replica.connection()), r#"10 ["a", "b"] one"#);
    run(
        &mut peers[0],
        "UPDATE notes SET likes = likes + 1, tags = '[\"x\", \"a\", \"b\", \"a\"]'",
    );
    run(&mut peers[0], "UPDATE notes SET likes = likes + 1");
    run(
        &mut peers[1],
        "UPDATE notes SET likes = likes - 5, tags = '[\"b\", 7]'",
    );
    // One spelling, without duplicates, at once.
    assert_eq!(
        shown(peers[0].replica.connection()),
        r#"12 ["a", "b", "x"] one"#
    );
    store.run("UPDATE notes SET likes = likes + 20, tags = json_insert(tags, '$[#]', 'sql')");
    let truth = everybody_hears(&mut store, &mut peers);
    assert_eq!(truth, r#"27 ["b", "sql", "x", 7] one"#);
    // Pushed once more, as after a lost answer, nothing counts twice.
    assert_eq!(everybody_hears(&mut store, &mut peers), truth);
}

#[test]
fn a_refused_transaction_takes_back_what_it_added_and_no_more() {
    let mut store = Site::with_rules(NOTES, &rules());
    let mut peers = peers(&mut store);
    run(
        &mut peers[0],
        "UPDATE notes SET likes = likes + 1, tags = '[\"a\", \"b\", \"c\"]'",
    );
    run(
        &mut peers[0],
        "UPDATE notes SET likes = likes + 2, tags = '[\"b\", \"c\", \"no\"]', title = 'bad'",
    );
    run(
        &mut peers[0],
        "UPDATE notes SET likes = likes + 4, tags = '[\"b\", \"c\", \"no\", \"d\"]'",
    );
    let outcomes = peers[0].push(&mut store);
    let refused: Vec<bool> = outcomes
        .iter()
        .map(|(_, outcome)| matches!(outcome, MergeOutcome::Rejected(_)))
        .collect();
    assert_eq!(refused, [false, true, false]);
    // Before the others are told of, and after.
    assert_eq!(
        shown(peers[0].replica.connection()),
        r#"15 ["a", "b", "c", "d"] one"#
    );
    let truth = everybody_hears(&mut store, &mut peers);
    assert_eq!(truth, r#"15 ["a", "b", "c", "d"] one"#);
    let refused = peers[0].replica.rejected_list().unwrap();
    assert_eq!(refused.len(), 1);

    // Sent again without what was refused, it adds as much, once.
    let title = ColumnId(4);
    peers[0]
        .replica
        .resend_rejected(refused[0].transaction.seq, |delta| {
            delta.state = delta.state.project(|column| column != title);
        })
        .unwrap();
    let truth = everybody_hears(&mut store, &mut peers);
    assert_eq!(truth, r#"17 ["b", "c", "d", "no"] one"#);
}

#[test]
fn a_row_that_is_inserted_again_starts_from_what_it_says() {
    let mut store = Site::with_rules(NOTES, &rules());
    let mut peers = peers(&mut store);
    run(&mut peers[0], "DELETE FROM notes");
    run(
        &mut peers[0],
        "INSERT INTO notes VALUES (1, 3, NULL, 'again')",
    );
    run(
        &mut peers[1],
        "UPDATE notes SET likes = likes + 1, tags = '[\"a\", \"b\", \"z\"]'",
    );
    let truth = everybody_hears(&mut store, &mut peers);
    // What the other added meanwhile is not lost.
    assert_eq!(truth, r#"4 ["z"] again"#);
}

#[test]
fn a_sum_beyond_the_rules_is_refused_alone() {
    let mut store = Site::with_rules(NOTES, &rules());
    let mut peers = peers(&mut store);
    run(&mut peers[0], "UPDATE notes SET likes = likes + 60");
    run(&mut peers[1], "UPDATE notes SET likes = likes + 60");
    let truth = everybody_hears(&mut store, &mut peers);
    assert_eq!(truth, r#"70 ["a", "b"] one"#);
}

#[test]
fn what_is_no_number_is_refused_with_a_reason() {
    let mut store = Site::with_rules(NOTES, &rules());
    let mut peers = peers(&mut store);
    run(&mut peers[0], "UPDATE notes SET likes = 'many'");
    let outcomes = peers[0].push(&mut store);
    let [(_, MergeOutcome::Rejected(why))] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(why.code, RejectCode::InvalidValue);
    assert_eq!(why.reason, "notes.likes is a counter; write whole numbers");
    assert_eq!(
        everybody_hears(&mut store, &mut peers),
        r#"10 ["a", "b"] one"#
    );
}

#[test]
fn a_set_that_grows_too_large_is_refused() {
    let mut store = Site::with_rules(NOTES, &rules());
    let table = store.table("notes");
    let many: Vec<u32> = (0..5000).collect();
    let at = stamp(1, 1);
    let mut state = RowState::live(at);
    let set = MergeKind::Set.write(None, &Value::Text(format!("{many:?}")), at);
    state.set_column(ColumnId(3), set.unwrap());
    let delta = anabranch_crdt::Delta {
        table,
        key: key(1),
        state,
    };
    let MergeOutcome::Rejected(why) = store.merge(upload(1, 1, at, vec![delta])) else {
        panic!("merged")
    };
    assert_eq!(why.code, RejectCode::TooLarge);
    assert!(
        why.reason
            .starts_with("the set notes.tags would come to 5002 elements"),
        "{why:?}"
    );
    let Some(ColumnState::Set(held)) = why.rows[0].state.clock().column(ColumnId(3)) else {
        panic!("{why:?}")
    };
    assert_eq!(held.elements().len(), 2);
}

#[test]
fn a_kind_is_fixed_and_a_rule_that_does_not_fit_says_why() {
    let store = Site::with_rules(NOTES, &rules());
    let other = Rules::new().table("notes", TableRules::new());
    let refused = EmbeddedCore::install_with(&store.path, &[], &other).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("notes.likes is replicated as a counter"),
        "{refused}"
    );
    let unfit = TableRules::new().column("title", MergeKind::Counter);
    let unfit = Rules::new().table("notes", unfit);
    let refused = EmbeddedCore::install_with(&store.path, &[], &unfit).unwrap_err();
    assert!(
        refused.to_string().contains("make it an integer type"),
        "{refused}"
    );
    EmbeddedCore::install_with(&store.path, &[], &rules()).unwrap();
}
