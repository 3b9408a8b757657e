//! The demo's own story: two editors and a SQL program at work on one pipeline of the example schema.

use anabranch_crdt::{RowKey, Value};

use super::plan::{
    Contest, Edit, Plan, PlannedShape,
    Side::{Ann, Bob, Program},
};

const TEAM: &str = "10000000-0000-4000-8000-000000000001";
const PIPELINE: &str = "30000000-0000-4000-8000-000000000001";

/// What the editors subscribe to: one team, and one of its pipelines with all that belongs to it.
pub(super) fn shapes() -> Vec<PlannedShape> {
    let shape = |table: &str, filter: Option<&str>, parameter: Option<(&str, &str)>| PlannedShape {
        table: table.to_owned(),
        filter: filter.map(str::to_owned),
        parameters: parameter
            .map(|(name, value)| (name.to_owned(), Value::text(value)))
            .into_iter()
            .collect(),
    };
    let team = Some(("team", TEAM));
    let pipeline = Some(("pipeline", PIPELINE));
    let of_pipeline = Some("pipeline_id = :pipeline");
    vec![
        shape("teams", Some("id = :team"), team),
        shape("users", Some("active"), None),
        shape("team_members", Some("team_id = :team"), team),
        shape(
            "pipelines",
            Some("team_id = :team AND status <> 'archived'"),
            team,
        ),
        shape("steps", of_pipeline, pipeline),
        shape("connections", of_pipeline, pipeline),
        shape("comments", of_pipeline, pipeline),
        shape("pipeline_versions", of_pipeline, pipeline),
    ]
}

/// What happens while everybody is apart.
pub(super) fn plan() -> Plan {
    let mut edits = anns();
    edits.extend(programs());
    edits.extend(bobs());
    Plan {
        edits,
        contests: contests(),
        refusals: Some(1),
    }
}

fn anns() -> Vec<Edit> {
    let edit = |about: &str, sql: &str| Edit::new(Ann, about, sql);
    vec![
        edit(
            "renames step 3",
            "UPDATE steps SET name = 'Convert to euro'
             WHERE id = '40000000-0000-4000-8000-000000000003'",
        ),
        edit(
            "disables step 1",
            "UPDATE steps SET enabled = 0 WHERE id = '40000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "deletes step 2, and its connections with it",
            "DELETE FROM steps WHERE id = '40000000-0000-4000-8000-000000000002'",
        ),
        edit(
            "removes the connection from step 3 to step 4",
            "DELETE FROM connections WHERE id = '50000000-0000-4000-8000-000000000003'",
        ),
        edit(
            "rewords a comment",
            "UPDATE comments SET body = 'Rates should come from the ECB table, at the day of the order'
             WHERE id = '60000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "adds a step, a connection from it to step 4, and a comment on it",
            "INSERT INTO steps (id, pipeline_id, name, kind, config, position, enabled, cost_per_run)
             VALUES ('40000000-0000-4000-8000-0000000000a1', '30000000-0000-4000-8000-000000000001',
                     'Deduplicate', 'filter', '{\"by\": [\"order_id\"]}', 5, 1, '0.10');
             INSERT INTO connections (id, pipeline_id, from_step_id, to_step_id, label)
             VALUES ('50000000-0000-4000-8000-0000000000a1', '30000000-0000-4000-8000-000000000001',
                     '40000000-0000-4000-8000-0000000000a1', '40000000-0000-4000-8000-000000000004',
                     'once each');
             INSERT INTO comments (id, pipeline_id, step_id, author_id, body, resolved, created_at)
             VALUES ('60000000-0000-4000-8000-0000000000a1', '30000000-0000-4000-8000-000000000001',
                     '40000000-0000-4000-8000-0000000000a1', '20000000-0000-4000-8000-000000000001',
                     'Late orders, once and for all', 0, '2026-09-20 10:00:00+00')",
        ),
        edit(
            "sets the team's seats to none, which the store's rules forbid",
            "UPDATE teams SET seats = 0 WHERE id = '10000000-0000-4000-8000-000000000001'",
        ),
    ]
}

fn programs() -> Vec<Edit> {
    let edit = |about: &str, sql: &str| Edit::new(Program, about, sql);
    vec![
        edit(
            "raises the pipeline's budget",
            "UPDATE pipelines SET monthly_budget = '500.00'
             WHERE id = '30000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "renames step 1",
            "UPDATE steps SET name = 'Read orders (nightly)'
             WHERE id = '40000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "deletes step 4, and with it the connection and the comment that refer to it",
            "DELETE FROM steps WHERE id = '40000000-0000-4000-8000-000000000004'",
        ),
        edit(
            "deletes the comment that Ann rewords",
            "DELETE FROM comments WHERE id = '60000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "inserts a step",
            "INSERT INTO steps (id, pipeline_id, name, kind, config, position, enabled, cost_per_run)
             VALUES ('40000000-0000-4000-8000-0000000000c1', '30000000-0000-4000-8000-000000000001',
                     'Alert on failure', 'sink', '{\"to\": \"on-call\"}', 6, true, '0.01')",
        ),
        edit(
            "adds a user",
            "INSERT INTO users (id, email, name, active, settings)
             VALUES ('20000000-0000-4000-8000-0000000000c1', 'dan@delta.example', 'Dan Ivers', true, '{}')",
        ),
    ]
}

fn bobs() -> Vec<Edit> {
    let edit = |about: &str, sql: &str| Edit::new(Bob, about, sql);
    vec![
        edit(
            "renames step 3 too, later than Ann",
            "UPDATE steps SET name = 'Convert currencies'
             WHERE id = '40000000-0000-4000-8000-000000000003'",
        ),
        edit(
            "changes the configuration of step 1",
            "UPDATE steps SET config = '{\"table\": \"orders\", \"since\": \"last_run\"}'
             WHERE id = '40000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "changes the cost of step 2",
            "UPDATE steps SET cost_per_run = '0.07'
             WHERE id = '40000000-0000-4000-8000-000000000002'",
        ),
        edit(
            "removes the connection from step 3 to step 4 and adds it again",
            "DELETE FROM connections WHERE id = '50000000-0000-4000-8000-000000000003';
             INSERT INTO connections (id, pipeline_id, from_step_id, to_step_id, label)
             VALUES ('50000000-0000-4000-8000-000000000003', '30000000-0000-4000-8000-000000000001',
                     '40000000-0000-4000-8000-000000000003', '40000000-0000-4000-8000-000000000004',
                     'in one currency')",
        ),
        edit(
            "describes the pipeline",
            "UPDATE pipelines SET description = 'The shop''s orders, cleaned, every night'
             WHERE id = '30000000-0000-4000-8000-000000000001'",
        ),
        edit(
            "saves a version",
            "INSERT INTO pipeline_versions (id, pipeline_id, author_id, number, note, content, created_at)
             VALUES ('70000000-0000-4000-8000-0000000000b1', '30000000-0000-4000-8000-000000000001',
                     '20000000-0000-4000-8000-000000000002', 3, 'Before the audit',
                     '{\"steps\": [\"Read orders\", \"Write warehouse\"]}', '2026-09-20 10:05:00+00')",
        ),
    ]
}

fn contests() -> Vec<Contest> {
    let contest = |title: &str, table: &str, key: &str, columns: &[&str]| Contest {
        title: title.to_owned(),
        table: table.to_owned(),
        key: RowKey(vec![Value::text(key)]),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
    };
    vec![
        contest(
            "Two editors change the same field of one step",
            "steps",
            "40000000-0000-4000-8000-000000000003",
            &["name"],
        ),
        contest(
            "Three sides change different fields of one step",
            "steps",
            "40000000-0000-4000-8000-000000000001",
            &["name", "config", "enabled"],
        ),
        contest(
            "Ann deletes a step while Bob changes it",
            "steps",
            "40000000-0000-4000-8000-000000000002",
            &["cost_per_run"],
        ),
        contest(
            "Ann removes a connection, SQL deletes it, Bob adds it again",
            "connections",
            "50000000-0000-4000-8000-000000000003",
            &["label"],
        ),
        contest(
            "SQL deletes a step while Ann and Bob connect others to it",
            "steps",
            "40000000-0000-4000-8000-000000000004",
            &[],
        ),
        contest(
            "SQL deletes a comment while Ann rewords it",
            "comments",
            "60000000-0000-4000-8000-000000000001",
            &["body"],
        ),
        contest(
            "Bob describes a pipeline while SQL changes its budget",
            "pipelines",
            "30000000-0000-4000-8000-000000000001",
            &["description", "monthly_budget"],
        ),
    ]
}
