//! Replicas that hold the same deltas of a row hold byte-equal row state, whatever the order, the
//! duplication and the batching.
mod common;

use anabranch_crdt::Value;
use anabranch_protocol::LocalTransaction;
use common::{DONE, Site, TITLE, key, uuid};
use proptest::prelude::*;

#[test]
fn an_update_concurrent_with_a_delete_wins_and_the_row_is_whole() {
    let (mut ann, mut bob) = (Site::new(1), Site::new(2));
    for site in [&mut ann, &mut bob] {
        site.keep_everything();
    }
    ann.run(&format!(
        "INSERT INTO tasks(id, title, created) VALUES ('{}', 'one', 'c')",
        uuid(1)
    ));
    bob.hear(&ann.pending());

    ann.run("UPDATE tasks SET done = 1");
    ann.run("DELETE FROM tasks");
    bob.run("UPDATE tasks SET title = 'two'");
    let (from_ann, from_bob) = (ann.pending(), bob.pending());
    ann.hear(&from_bob);
    bob.hear(&from_ann);

    for site in [&mut ann, &mut bob] {
        assert_eq!(
            site.text("SELECT title || done || created FROM tasks")
                .as_deref(),
            Some("two1c"),
            "what was written before the delete is there too"
        );
        assert_eq!(site.count("anabranch_dead_2"), 0);
    }
    assert_eq!(ann.everything(), bob.everything());
}

#[test]
fn a_delete_of_a_parent_loses_to_a_concurrent_child() {
    let (mut ann, mut bob) = (Site::new(1), Site::new(2));
    for site in [&mut ann, &mut bob] {
        site.keep_everything();
    }
    ann.run(&format!("INSERT INTO projects VALUES ('{}', 'p')", uuid(9)));
    bob.hear(&ann.pending());
    ann.run("DELETE FROM projects");
    bob.run(&format!(
        "INSERT INTO tasks(id, title, project) VALUES ('{}', 'child', '{}')",
        uuid(1),
        uuid(9)
    ));
    let (from_ann, from_bob) = (ann.pending(), bob.pending());
    ann.hear(&from_bob);
    bob.hear(&from_ann);
    for site in [&mut ann, &mut bob] {
        let joined = "SELECT name || title FROM tasks JOIN projects ON projects.id = project";
        assert_eq!(site.text(joined).as_deref(), Some("pchild"));
    }
    assert_eq!(ann.everything(), bob.everything());
}

#[test]
fn a_reinsert_concurrent_with_a_delete_survives_and_a_seen_one_does_not() {
    let (mut ann, mut bob) = (Site::new(1), Site::new(2));
    for site in [&mut ann, &mut bob] {
        site.keep_everything();
    }
    ann.run("INSERT INTO numbered VALUES (1, 'one')");
    bob.hear(&ann.pending());
    bob.run("DELETE FROM numbered");
    ann.hear(&bob.pending());
    assert_eq!(ann.count("numbered"), 0);
    ann.run("INSERT INTO numbered VALUES (1, 'again')");
    bob.hear(&ann.pending());
    assert_eq!(
        bob.text("SELECT note FROM numbered").as_deref(),
        Some("again")
    );
    assert_eq!(ann.everything(), bob.everything());
}

#[test]
fn a_local_write_is_superseded_only_by_a_newer_one() {
    let (mut ann, mut bob) = (Site::new(1), Site::new(2));
    for site in [&mut ann, &mut bob] {
        site.keep_everything();
    }
    ann.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'one')",
        uuid(1)
    ));
    bob.hear(&ann.pending());
    bob.run("UPDATE tasks SET title = 'older', done = 0");
    ann.clock.advance(1_000);
    ann.run("UPDATE tasks SET title = 'newer'");
    ann.hear(&bob.pending());
    let state = ann.replica.row_state("tasks", &key(1)).unwrap().unwrap();
    assert_eq!(state.value(TITLE), Some(&Value::text("newer")));
    assert_eq!(state.value(DONE), Some(&Value::Integer(0)));
}

/// What a program does to the table of a few rows.
#[derive(Clone, Debug)]
enum Step {
    Sql {
        site: usize,
        sql: String,
    },
    /// Tells one replica what another has said so far, once more.
    Deliver {
        from: usize,
        to: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let sql = prop_oneof![
        (0..3_u8, any::<u8>()).prop_map(|(row, value)| format!(
            "INSERT OR REPLACE INTO keyed VALUES ('t', {row}, 'n{value}', {value})"
        )),
        (0..3_u8, any::<u8>()).prop_map(|(row, value)| format!(
            "UPDATE keyed SET note = 'u{value}' WHERE number = {row}"
        )),
        (0..3_u8, any::<u8>()).prop_map(|(row, value)| format!(
            "UPDATE keyed SET amount = {value} WHERE number = {row}"
        )),
        (0..3_u8).prop_map(|row| format!("DELETE FROM keyed WHERE number = {row}")),
        (0..3_u8, 0..3_u8).prop_map(|(row, to)| format!(
            "UPDATE OR REPLACE keyed SET number = {to} WHERE number = {row}"
        )),
        (0..3_u8).prop_map(|row| format!(
            "UPDATE keyed SET note = 'gone' WHERE number = {row};
             DELETE FROM keyed WHERE number = {row};
             INSERT INTO keyed VALUES ('t', {row}, NULL, 1);
             DELETE FROM keyed WHERE number = {row}"
        )),
    ];
    prop_oneof![
        3 => (0..3_usize, sql).prop_map(|(site, sql)| Step::Sql { site, sql }),
        1 => (0..3_usize, 0..3_usize).prop_map(|(from, to)| Step::Deliver { from, to }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order(
        steps in prop::collection::vec(step(), 1..24),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let mut sites = [Site::new(1), Site::new(2), Site::new(3)];
        for site in &mut sites {
            site.keep_everything();
        }
        for step in steps {
            match step {
                Step::Sql { site, sql } => drop(sites[site].run(&sql)),
                Step::Deliver { from, to } if from == to => {}
                Step::Deliver { from, to } => {
                    let said = sites[from].pending();
                    sites[to].hear(&said);
                }
            }
        }
        let mut said: Vec<LocalTransaction> = sites.iter().flat_map(Site::pending).collect();
        for (site, at) in sites.iter_mut().zip(shuffle) {
            // Each hears everything, rotated by a different amount and backwards every other time.
            let middle = at.index(said.len().max(1)).min(said.len());
            said.rotate_left(middle);
            said.reverse();
            // Not its own: a second delivery could heal what its own bookkeeping got wrong.
            let own = site.replica.id();
            let others = said.iter().filter(|transaction| transaction.stamp.replica != own);
            site.hear(&others.cloned().collect::<Vec<_>>());
        }
        let states: Vec<_> = sites.iter_mut().map(Site::everything).collect();
        prop_assert_eq!(&states[0], &states[1]);
        prop_assert_eq!(&states[1], &states[2]);
        for site in &sites {
            let visible = "SELECT group_concat(number || ifnull(note, '-') || ifnull(amount, '-'))
                FROM (SELECT * FROM keyed ORDER BY number)";
            prop_assert_eq!(site.text(visible), sites[0].text(visible));
        }
    }
}
