//! A transaction is never visible in part: money that moves between accounts is never seen to be
//! missing, neither in Postgres nor in a replica, whoever moves it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anabranch_testkit::{cluster::shared_cluster, sim::Rng};
use tempfile::TempDir;

use crate::world::{Database, Editor, equal};

const ACCOUNTS: u64 = 20;
const TOTAL: i64 = 100 * 20;
const TRANSFERS: usize = 150;

const TABLES: &str = "
    CREATE TABLE account (id integer PRIMARY KEY, owner text NOT NULL, money integer NOT NULL);
    INSERT INTO account
    SELECT n, CASE WHEN n < 20 THEN 'postgres' ELSE 'replica' END, 100
    FROM generate_series(0, 39) AS n;
";

fn transfer(rng: &mut Rng, first: u64) -> String {
    let (from, to, money) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS), rng.below(50));
    format!(
        "UPDATE account SET money = money - {money} WHERE id = {}; \
         UPDATE account SET money = money + {money} WHERE id = {};",
        first + from,
        first + to,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_never_seen_to_be_missing() {
    let database = Database::new(shared_cluster(), TABLES).await;
    let service = database.serve("127.0.0.1:0".parse().unwrap()).await;
    let folder = TempDir::new().unwrap();
    // Two shapes, so that a transfer may cross from one to the other.
    let shapes = [
        ("account", Some("id < 10 OR id >= 30")),
        ("account", Some("money > -1000000")),
    ];
    let mut editor = Editor::new(&folder, "ann", &service.url(), &shapes);
    editor.settled().await;

    // Another program reads the replica's file all the while.
    let over = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU64::new(0));
    let reader = {
        let (over, looks, file) = (Arc::clone(&over), Arc::clone(&looks), editor.file.clone());
        thread::spawn(move || {
            let conn = rusqlite::Connection::open(file).unwrap();
            conn.busy_timeout(Duration::from_secs(5)).unwrap();
            let sql = "SELECT sum(money), count(*) FROM account WHERE owner = 'postgres'";
            while !over.load(Ordering::Relaxed) {
                let seen: (i64, i64) = conn
                    .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
                    .unwrap();
                assert_eq!(seen, (TOTAL, ACCOUNTS.cast_signed()));
                looks.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut rng = Rng::new(7);
    for round in 0..TRANSFERS {
        let sql = format!("BEGIN; {} COMMIT;", transfer(&mut rng, 0));
        database.sql.batch_execute(&sql).await.unwrap();
        assert!(editor.write(&transfer(&mut rng, ACCOUNTS)) || round > 0);
        let seen = database
            .count("SELECT sum(money) FROM account WHERE owner = 'replica'")
            .await;
        assert_eq!(seen, TOTAL);
        if round % 50 == 25 {
            editor.go_offline().await;
        } else if round % 50 == 40 {
            editor.go_online();
        }
    }
    let store = database.store().await;
    equal(&store, &mut editor).await;
    over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert!(looks.load(Ordering::Relaxed) > 0);
    let total = database.count("SELECT sum(money) FROM account").await;
    assert_eq!(total, 2 * TOTAL);
    service.stop().await;
}
