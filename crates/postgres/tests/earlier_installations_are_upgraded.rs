//! Installing over what an earlier version installed gives the side tables the columns that they lacked,
//! and every replicated table a trigger function of this version, also those that are not named.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{Hlc, Millis};
use anabranch_postgres::{PostgresStore, TableSelection, install};
use anabranch_protocol::Seq;
use anabranch_store::{MergeOutcome, Store as _};
use common::{client, delta, fresh_database, future_stamp, key, options, replica, text};
use common::{upload, write};

/// What the first version had not got, and its trigger function that knew nothing of it.
const AS_IT_WAS: &str = "
    alter table anabranch.meta drop column horizon;
    alter table anabranch.tables drop column rules;
    alter table anabranch.clocks drop column removed;
    alter table anabranch.tombstones drop column buried;
    drop function anabranch.elements(jsonb), anabranch.removed(jsonb, jsonb, jsonb);
    do $$ begin execute format(
        'create or replace function anabranch.stamp_%s() returns trigger language plpgsql as '
        '''begin return null; end''',
        (select table_id from anabranch.tables where name = 'note'));
    end $$;";

#[tokio::test]
async fn what_is_missing_is_added_and_the_triggers_are_made_anew() {
    let (url, slot) = fresh_database();
    let sql = client(&url).await;
    let ddl = "create table note (id int primary key, title text);
               insert into note values (1, 'one'), (2, 'two'), (3, 'three')";
    sql.batch_execute(ddl).await.unwrap();
    install(&url, &TableSelection::All).await.unwrap();
    let delete = "delete from note where id = 1";
    sql.batch_execute(delete).await.unwrap();
    sql.batch_execute(AS_IT_WAS).await.unwrap();

    sql.batch_execute("create table more (id int primary key)")
        .await
        .unwrap();
    let more = TableSelection::Named(vec!["more".to_owned()]);
    install(&url, &more).await.unwrap();

    let store = PostgresStore::connect(&options(&url, &slot)).await.unwrap();
    let standing = store.greet(replica(1), Seq(1)).await.unwrap();
    assert_eq!(standing.merged_through, Seq(0));
    sql.batch_execute("delete from note where id = 2")
        .await
        .unwrap();
    // What was removed before counts as removed now: neither long ago nor for good.
    let ago = Hlc::new(Millis(1), 0).unwrap();
    assert_eq!(store.forget_removed(ago).await.unwrap(), 0);
    let in_an_hour = future_stamp(1, 3_600_000).hlc;
    assert_eq!(store.forget_removed(in_an_hour).await.unwrap(), 2);
    let schema = store.schema().await.unwrap();
    let note = schema.table_named("note").unwrap();
    let at = future_stamp(1, 1000);
    let state = write(at, &[(2, text("from a replica"))]);
    let sent = upload(1, 1, at, vec![delta(note, key(3), state)]);
    assert_eq!(
        store.merge(vec![sent]).await.unwrap(),
        [MergeOutcome::Merged]
    );
}
