//! Uploads merge under the rules that the tables' owner gave them, each whole or not at all, once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use anabranch_crdt::{ReplicaId, RowState, Value};
use anabranch_protocol::{Position, RejectCode, Seq};
use anabranch_store::{MergeOutcome, Rejection, StoreError, Upload};
use common::{Site, key, removal, replica, stamp, upload, write};

const TABLES: &str = "
    CREATE TABLE team (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE item (
        id INTEGER PRIMARY KEY, title TEXT NOT NULL, price NUMERIC CHECK (price >= 0),
        team INTEGER REFERENCES team(id) ON DELETE CASCADE, kind TEXT NOT NULL DEFAULT 'plain');
    CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT);
    CREATE TRIGGER item_audit AFTER INSERT ON item BEGIN
        INSERT INTO audit(what) VALUES ('item ' || NEW.id);
    END;
    CREATE TRIGGER item_upper AFTER UPDATE OF title ON item WHEN NEW.title = 'shout' BEGIN
        UPDATE item SET title = 'SHOUT' WHERE id = NEW.id;
    END;
    CREATE TRIGGER item_forbidden BEFORE INSERT ON item WHEN NEW.title = 'forbidden' BEGIN
        SELECT RAISE(ABORT, 'not that title');
    END;
    CREATE TRIGGER item_fatal BEFORE INSERT ON item WHEN NEW.title = 'fatal' BEGIN
        SELECT RAISE(ROLLBACK, 'everything goes');
    END;
";

fn text(text: &str) -> Value {
    Value::text(text)
}

fn rejection(outcome: MergeOutcome) -> Rejection {
    match outcome {
        MergeOutcome::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_store_does_beyond_the_upload_is_the_servers_write() {
    let mut site = Site::new(TABLES);
    let (item, audit) = (site.table("item"), site.table("audit"));
    let stamp = stamp(0, 1);
    let cells = [(2, text("one")), (3, text("1.50"))];
    let outcome = site.merge(upload(
        1,
        1,
        stamp,
        vec![write(item, key(7), stamp, &cells)],
    ));
    assert_eq!(outcome, MergeOutcome::Merged);

    let state = site.rows("item").remove(0).1;
    let cells: Vec<(u16, ReplicaId, Value)> = state
        .cells()
        .map(|(column, stamp, value)| (column.0, stamp.replica, value.clone()))
        .collect();
    let server = ReplicaId::SERVER;
    let expected = [
        (2, replica(1), text("one")),
        (3, server, text("1.5")),
        (4, server, Value::Null),
        (5, server, text("plain")),
    ];
    assert_eq!(cells, expected);
    // One transaction tells it all, the trigger's row too.
    let log = site.core.changes_since(Position(0)).unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].origins, [(replica(1), Seq(1))]);
    let tables: Vec<_> = log[0].deltas.iter().map(|delta| delta.table).collect();
    assert_eq!(tables, [audit.min(item), audit.max(item)]);
    let told = log[0]
        .deltas
        .iter()
        .find(|delta| delta.table == item)
        .unwrap();
    assert_eq!(told.state, state);
}

#[test]
fn a_trigger_on_the_row_itself_has_the_last_word() {
    let mut site = Site::new(TABLES);
    let item = site.table("item");
    site.run("INSERT INTO item(id, title) VALUES (1, 'quiet')");
    site.core.seal().unwrap();
    site.time.fetch_add(10, std::sync::atomic::Ordering::SeqCst);
    let stamp = stamp(10, 1);
    site.merge(upload(
        1,
        1,
        stamp,
        vec![write(item, key(1), stamp, &[(2, text("shout"))])],
    ));
    let state = site.rows("item").remove(0).1;
    let (_, title_stamp, title) = state.cells().next().unwrap();
    assert_eq!(title, &text("SHOUT"));
    assert!(title_stamp > stamp && title_stamp.replica == ReplicaId::SERVER);
}

/// Eight uploads of replica 1, the first and the last of which are good.
fn good_and_bad(site: &Site) -> Vec<Upload> {
    let (team, item) = (site.table("team"), site.table("item"));
    let at = |seq| stamp(seq, 1);
    let named = |seq, id, name: &str| {
        upload(
            1,
            seq,
            at(seq),
            vec![write(team, key(id), at(seq), &[(2, text(name))])],
        )
    };
    let of_item = |seq, cells: &[(u16, Value)]| {
        upload(1, seq, at(seq), vec![write(item, key(9), at(seq), cells)])
    };
    let of_team = |seq, cell: (u16, Value)| {
        upload(1, seq, at(seq), vec![write(team, key(1), at(seq), &[cell])])
    };
    // A column that is gone and never had a value in this row.
    let cells = [(2, text("also free")), (99, Value::Null)];
    let last = upload(1, 8, at(8), vec![write(team, key(4), at(8), &cells)]);
    vec![
        named(1, 2, "free"),
        named(2, 3, "taken"),
        of_item(3, &[(2, text("forbidden"))]),
        of_item(4, &[(3, text("1"))]),
        of_item(5, &[(2, text("x")), (3, text("-1"))]),
        of_team(6, (2, Value::Blob(vec![1]))),
        of_team(7, (99, text("gone"))),
        last,
    ]
}

#[test]
fn one_bad_upload_is_refused_alone_and_says_why() {
    let mut site = Site::new(TABLES);
    site.run("INSERT INTO team VALUES (1, 'taken')");
    let uploads = good_and_bad(&site);
    let outcomes = site.core.merge(uploads.clone()).unwrap();
    assert_eq!([&outcomes[0], &outcomes[7]], [&MergeOutcome::Merged; 2]);
    let refused: Vec<Rejection> = outcomes[1..7].iter().cloned().map(rejection).collect();
    let whys: Vec<(RejectCode, &str)> = refused
        .iter()
        .map(|refused| (refused.code, refused.reason.as_str()))
        .collect();
    let expected = [
        (
            RejectCode::Constraint,
            "UNIQUE constraint failed: team.name",
        ),
        (RejectCode::Store, "not that title"),
        (
            RejectCode::Constraint,
            "NOT NULL constraint failed: item.title",
        ),
        (
            RejectCode::Constraint,
            "CHECK constraint failed: price >= 0",
        ),
        (
            RejectCode::InvalidValue,
            "team.name is TEXT and cannot hold Blob([1])",
        ),
        (RejectCode::UnknownSchema, "team has no column numbered 99"),
    ];
    assert_eq!(whys, expected);
    // A row the store has never heard of comes with an empty state, a known one with what it holds.
    assert_eq!(refused[0].rows[0].state, RowState::new());
    assert_eq!(
        refused[4].rows[0].state.cells().next().unwrap().2,
        &text("taken")
    );
    let names = "SELECT group_concat(name) FROM (SELECT name FROM team ORDER BY id)";
    assert_eq!(site.text(names).as_deref(), Some("taken,free,also free"));
    assert_eq!(
        site.text("SELECT count(*) || '' FROM item").as_deref(),
        Some("0")
    );

    // Sent again, each gets the outcome it had.
    let again = site.core.merge(uploads).unwrap();
    assert_eq!(
        again[0],
        MergeOutcome::Duplicate(site.core.position().unwrap())
    );
    let again: Vec<Rejection> = again[1..7].iter().cloned().map(rejection).collect();
    assert_eq!(again, refused);
}

#[test]
fn a_reference_to_nothing_is_refused_alone_at_the_commit() {
    let mut site = Site::new(TABLES);
    let (team, item) = (site.table("team"), site.table("item"));
    let at = |seq| stamp(seq, 1);
    let child = |seq, id, parent| {
        let cells = [(2, text("child")), (4, Value::Integer(parent))];
        write(item, key(id), at(seq), &cells)
    };
    let uploads = vec![
        upload(1, 1, at(1), vec![child(1, 1, 99)]),
        // The child comes before its parent, in one transaction.
        upload(
            1,
            2,
            at(2),
            vec![
                child(2, 2, 5),
                write(team, key(5), at(2), &[(2, text("t"))]),
            ],
        ),
    ];
    let outcomes = site.core.merge(uploads).unwrap();
    assert_eq!(outcomes[1], MergeOutcome::Merged);
    let refused = rejection(outcomes[0].clone());
    assert_eq!(refused.code, RejectCode::Constraint);
    assert_eq!(
        refused.reason,
        "FOREIGN KEY constraint failed: item refers to a row that team lacks"
    );
    assert_eq!(
        site.text("SELECT group_concat(id) FROM item").as_deref(),
        Some("2")
    );
}

#[test]
fn a_trigger_that_rolls_everything_back_refuses_only_its_own() {
    let mut site = Site::new(TABLES);
    let (team, item) = (site.table("team"), site.table("item"));
    let at = |seq| stamp(seq, 1);
    let uploads = vec![
        upload(
            1,
            1,
            at(1),
            vec![write(team, key(1), at(1), &[(2, text("kept"))])],
        ),
        upload(
            1,
            2,
            at(2),
            vec![write(item, key(1), at(2), &[(2, text("fatal"))])],
        ),
        upload(
            1,
            3,
            at(3),
            vec![write(team, key(2), at(3), &[(2, text("kept too"))])],
        ),
    ];
    let outcomes = site.core.merge(uploads).unwrap();
    assert_eq!(outcomes[0], MergeOutcome::Merged);
    assert_eq!(rejection(outcomes[1].clone()).code, RejectCode::Store);
    assert_eq!(outcomes[2], MergeOutcome::Merged);
    assert_eq!(
        site.text("SELECT group_concat(name) FROM team").as_deref(),
        Some("kept,kept too")
    );
}

#[test]
fn a_removed_parent_takes_its_children_as_the_servers_write() {
    let mut site = Site::new(TABLES);
    let (team, item) = (site.table("team"), site.table("item"));
    site.run(
        "INSERT INTO team VALUES (1, 't');
         INSERT INTO item(id, title, team) VALUES (1, 'a', 1), (2, 'b', 1)",
    );
    site.core.seal().unwrap();
    let seen = site.rows("team").remove(0).1;
    let position = site.core.position().unwrap();
    let at = stamp(1, 1);
    let outcome = site.merge(upload(
        1,
        1,
        at,
        vec![removal(team, key(1), seen.existence())],
    ));
    assert_eq!(outcome, MergeOutcome::Merged);
    assert_eq!(
        site.text("SELECT count(*) || '' FROM item").as_deref(),
        Some("0")
    );
    let log = site.core.changes_since(position).unwrap();
    let told: Vec<_> = log[0]
        .deltas
        .iter()
        .map(|delta| (delta.table, delta.state.existence().is_present()))
        .collect();
    let mut expected = [(team, false), (item, false), (item, false)];
    expected.sort_by_key(|(table, _)| *table);
    assert_eq!(told, expected);

    // A child that moved away in the same transaction stays.
    site.run(
        "INSERT INTO team VALUES (3, 'x'), (4, 'y');
         INSERT INTO item(id, title, team) VALUES (3, 'c', 3)",
    );
    site.core.seal().unwrap();
    let seen = site
        .rows("team")
        .into_iter()
        .find(|(k, _)| *k == key(3))
        .unwrap()
        .1;
    let at = stamp(2, 1);
    let moved = write(item, key(3), at, &[(4, Value::Integer(4))]);
    let gone = removal(team, key(3), seen.existence());
    let mut deltas = vec![moved, gone];
    deltas.sort_by_key(|delta| delta.table);
    site.merge(upload(1, 2, at, deltas));
    assert_eq!(
        site.text("SELECT title || team FROM item").as_deref(),
        Some("c4")
    );
}

#[test]
fn a_removed_row_comes_back_whole() {
    let mut site = Site::new(TABLES);
    let item = site.table("item");
    site.run("INSERT INTO item(id, title, kind) VALUES (1, 'kept', 'rare')");
    site.core.seal().unwrap();
    let first = stamp(5, 2);
    let update = upload(
        2,
        1,
        first,
        vec![write(item, key(1), first, &[(3, text("3"))])],
    );
    site.run("DELETE FROM item");
    assert_eq!(site.merge(update), MergeOutcome::Merged);
    let row = "SELECT title || kind || price FROM item";
    assert_eq!(site.text(row).as_deref(), Some("keptrare3"));
}

#[test]
fn every_number_counts_once() {
    let mut site = Site::new(TABLES);
    let team = site.table("team");
    let named = |seq, name: &str| {
        let at = stamp(seq, 1);
        upload(
            1,
            seq,
            at,
            vec![write(team, key(1), at, &[(2, text(name))])],
        )
    };
    assert_eq!(site.merge(named(1, "a")), MergeOutcome::Merged);
    assert_eq!(
        site.merge(named(1, "a")),
        MergeOutcome::Duplicate(Position(1))
    );
    let forged = rejection(site.merge(named(1, "forged")));
    assert_eq!(forged.code, RejectCode::Equivocation);
    let gap = site.core.merge(vec![named(3, "c")]);
    assert!(matches!(gap, Err(StoreError::Damaged(_))));
    assert_eq!(site.merge(named(2, "b")), MergeOutcome::Merged);

    site.reopen();
    assert_eq!(
        site.core.greet(replica(1), Seq(1)).unwrap().merged_through,
        Seq(2)
    );
    assert_eq!(
        site.merge(named(2, "b")),
        MergeOutcome::Duplicate(Position(2))
    );
    // The replica needs the outcomes no more, but the last number stays known.
    assert_eq!(
        site.core.greet(replica(1), Seq(3)).unwrap().merged_through,
        Seq(2)
    );
    assert_eq!(
        site.text("SELECT count(*) || '' FROM anabranch_marks")
            .as_deref(),
        Some("1")
    );
    // A restored file may use a forgotten number for something else, which must not be lost.
    let forgotten = rejection(site.merge(named(1, "after a restore")));
    assert_eq!(forgotten.code, RejectCode::Equivocation);
    assert!(forgotten.reason.contains("write it again"));
    assert_eq!(
        site.core.greet(replica(9), Seq(1)).unwrap().merged_through,
        Seq(0)
    );
}

#[test]
fn a_write_of_another_program_is_above_whatever_it_overwrote() {
    let mut site = Site::new(TABLES);
    let team = site.table("team");
    // A client whose clock is a minute ahead, which is allowed.
    let ahead = stamp(60_000, 1);
    site.merge(upload(
        1,
        1,
        ahead,
        vec![write(team, key(1), ahead, &[(2, text("client"))])],
    ));
    site.run("UPDATE team SET name = 'server'");
    let rows = site.rows("team");
    let (_, written, value) = rows[0].1.cells().next().unwrap();
    assert_eq!(value, &text("server"));
    assert!(written > ahead && written.replica == ReplicaId::SERVER);
    let log = site.core.changes_since(Position(1)).unwrap();
    assert_eq!((log.len(), log[0].origins.len()), (1, 0));
    // And another client's older write loses.
    let older = stamp(50_000, 2);
    site.merge(upload(
        2,
        1,
        older,
        vec![write(team, key(1), older, &[(2, text("late"))])],
    ));
    assert_eq!(
        site.text("SELECT name FROM team").as_deref(),
        Some("server")
    );
}
