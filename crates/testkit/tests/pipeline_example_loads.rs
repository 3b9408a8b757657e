//! The example workspace is valid SQL, with the rows that it promises and the foreign keys that make a
//! delete take its children along.
#![allow(clippy::unwrap_used, missing_docs)]

use anabranch_testkit::cluster::shared_cluster;

const SCHEMA: &str = include_str!("../../../examples/pipeline/schema.sql");

#[test]
fn it_loads_and_cascades() {
    let cluster = shared_cluster();
    let database = cluster.fresh_database().unwrap();
    cluster.sql(&database, SCHEMA).unwrap();
    let count = "select (select count(*) from teams), (select count(*) from team_members),
        (select count(*) from users), (select count(*) from pipelines), (select count(*) from steps),
        (select count(*) from connections), (select count(*) from comments),
        (select count(*) from pipeline_versions)";
    assert_eq!(cluster.sql(&database, count).unwrap(), "2|4|3|2|6|4|3|3\n");

    cluster
        .sql(&database, "delete from steps where name = 'Convert to EUR'")
        .unwrap();
    assert_eq!(cluster.sql(&database, count).unwrap(), "2|4|3|2|5|2|2|3\n");
    cluster
        .sql(&database, "delete from teams where name = 'Estuary'")
        .unwrap();
    assert_eq!(cluster.sql(&database, count).unwrap(), "1|2|3|1|3|1|1|2\n");
}
