//! `kill -9` of the service, of Postgres and of a replica's process, in the middle of it all: nothing
//! acknowledged is lost, nothing is applied twice, and everything comes together by itself.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anabranch_testkit::{
    cluster::{Cluster, ClusterOptions, PgBinaries, shared_cluster},
    sim::Rng,
};
use tempfile::TempDir;

use crate::world::{Database, Editor, equal, free_address};

/// Entries are only ever inserted. A trigger of the application counts every row that Postgres ever
/// inserted, so that one applied twice would show, whatever the engine's own marks say.
const TABLES: &str = "
    CREATE TABLE entry (id text PRIMARY KEY, writer text NOT NULL, number integer NOT NULL);
    CREATE TABLE counter (id integer PRIMARY KEY, value integer NOT NULL);
    INSERT INTO counter VALUES (1, 0);
    CREATE SCHEMA app;
    CREATE TABLE app.inserted (id text, times integer);
    CREATE FUNCTION app.count() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO app.inserted VALUES (new.id, 1); RETURN new; END $$;
    CREATE TRIGGER count AFTER INSERT ON entry FOR EACH ROW EXECUTE FUNCTION app.count();
";
/// The application's own table has no key, so it cannot be replicated and is left out.
const REPLICATED: &str = "entry, counter";
const SHAPES: [(&str, Option<&str>); 2] = [("entry", None), ("counter", None)];
const ROUNDS: u64 = 12;

fn anabranch(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

fn serve(config: &Path) -> Child {
    anabranch(&["serve", "--config", config.to_str().unwrap()])
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Writes `count` entries as local transactions of their own; returns how many there were before.
fn write(editor: &mut Editor, writer: &str, from: u64, count: u64) {
    for number in from..from + count {
        let sql = format!(
            "INSERT INTO entry VALUES ('{writer}-{number}', '{writer}', {number}); \
             UPDATE counter SET value = {number} WHERE id = 1;"
        );
        assert!(editor.write(&sql));
    }
}

async fn nothing_lost_and_nothing_twice(database: &Database, writers: &[(&str, u64)]) {
    for (writer, count) in writers {
        let sql = format!("SELECT count(*) FROM entry WHERE writer = '{writer}'");
        assert_eq!(database.count(&sql).await, count.cast_signed(), "{writer}");
    }
    let twice = "SELECT count(*) FROM (SELECT id FROM app.inserted GROUP BY id \
                 HAVING count(*) > 1) AS twice";
    assert_eq!(database.count(twice).await, 0);
    let refused = "SELECT count(*) FROM anabranch.marks WHERE code IS NOT NULL";
    assert_eq!(database.count(refused).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_killed_again_and_again() {
    let database = Database::replicating(shared_cluster(), TABLES, REPLICATED).await;
    let folder = TempDir::new().unwrap();
    let address: SocketAddr = free_address();
    let url = format!("ws://{address}{}", anabranch_service::SYNC_PATH);
    let config = database.write_config(folder.path(), address);
    let mut service = serve(&config);
    let mut ann = Editor::new(&folder, "ann", &url, &SHAPES);
    let mut bob = Editor::new(&folder, "bob", &url, &SHAPES);
    ann.settled().await;
    bob.settled().await;

    let mut rng = Rng::new(1);
    for round in 0..ROUNDS {
        write(&mut ann, "ann", round * 10, 10);
        write(&mut bob, "bob", round * 10, 10);
        tokio::time::sleep(Duration::from_millis(rng.below(400))).await;
        kill(&mut service);
        service = serve(&config);
        if round % 3 == 0 {
            // Long enough to connect again; otherwise it is killed while they try.
            tokio::time::sleep(Duration::from_millis(rng.below(1500))).await;
        }
    }
    let store = database.store().await;
    equal(&store, &mut ann).await;
    equal(&store, &mut bob).await;
    let each = ROUNDS * 10;
    nothing_lost_and_nothing_twice(&database, &[("ann", each), ("bob", each)]).await;
    kill(&mut service);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_killed_and_comes_back() {
    let binaries = PgBinaries::find().unwrap();
    let mut cluster = Cluster::start(&binaries, ClusterOptions::default()).unwrap();
    let mut database = Database::replicating(&cluster, TABLES, REPLICATED).await;
    let service = database.serve("127.0.0.1:0".parse().unwrap()).await;
    let folder = TempDir::new().unwrap();
    let mut ann = Editor::new(&folder, "ann", &service.url(), &SHAPES);
    ann.settled().await;

    let mut rng = Rng::new(2);
    let rounds = 4;
    for round in 0..rounds {
        write(&mut ann, "ann", round * 20, 10);
        tokio::time::sleep(Duration::from_millis(rng.below(100))).await;
        cluster.kill().unwrap();
        write(&mut ann, "ann", round * 20 + 10, 10);
        tokio::time::sleep(Duration::from_millis(rng.below(300))).await;
        cluster.start_again().unwrap();
    }
    database.reconnect().await;
    let store = database.store().await;
    equal(&store, &mut ann).await;
    nothing_lost_and_nothing_twice(&database, &[("ann", rounds * 20)]).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicas_process_is_killed_in_mid_sync() {
    let database = Database::replicating(shared_cluster(), TABLES, REPLICATED).await;
    let service = database.serve("127.0.0.1:0".parse().unwrap()).await;
    let folder = TempDir::new().unwrap();
    // Made and subscribed here, then synced by processes of its own.
    let editor = Editor::new(&folder, "ann", &service.url(), &SHAPES);
    let file = editor.file.clone();
    drop(editor);
    let path = file.to_str().unwrap();
    let url = service.url();
    let sync = ["replica", "sync", path, "--watch", "--url", &url];

    let mut rng = Rng::new(3);
    let mut written = 0;
    for round in 0..ROUNDS {
        let mut process = anabranch(&sync);
        tokio::time::sleep(Duration::from_millis(100 + rng.below(400))).await;
        let sql = format!("INSERT INTO entry VALUES ('sql-{round}', 'sql', {round})");
        database.sql.batch_execute(&sql).await.unwrap();
        // An editor that knows nothing of the engine.
        let conn = rusqlite::Connection::open(&file).unwrap();
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        for _ in 0..10 {
            let sql = format!("INSERT INTO entry VALUES ('ann-{written}', 'ann', {written})");
            match conn.execute(&sql, []) {
                Ok(_) => written += 1,
                // The first process may be killed before it has the schema.
                Err(error) => assert!(round == 0, "{error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.below(150))).await;
        kill(&mut process);
    }
    let integrity =
        rusqlite::Connection::open(&file)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(integrity.unwrap(), "ok");
    let mut editor = Editor::new(&folder, "ann", &service.url(), &SHAPES);
    let store = database.store().await;
    equal(&store, &mut editor).await;
    nothing_lost_and_nothing_twice(&database, &[("ann", written), ("sql", ROUNDS)]).await;
    service.stop().await;
}
