//! Replicas that merge at random, and a SQL writer beside them: in the end everybody holds what the
//! store holds, byte for byte, and the rows in the tables are what the clocks say.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use anabranch_crdt::{
    ColumnId, ColumnState, Counter, Hlc, HlcClock, MergeKind, Millis, RowKey, RowState, Stamp,
    Value,
};
use anabranch_protocol::Position;
use anabranch_shape::{
    rules::{Rules, TableRules},
    schema::Table,
};
use anabranch_store::{LogEvent, MergeOutcome, Store as _, StoreError, Upload};
use common::{Fixture, client, delta, key, removal, replica, text, upload};
use tokio::sync::mpsc;

const DDL: &str = "
    create table n (id int primary key, a int, b text, c numeric(8,2) default 5, big text,
        hits int not null default 0, tags jsonb);
    insert into n select i, i, 'b' || i, 0 from generate_series(1, 10) i;";

fn rules() -> Rules {
    let rules = TableRules::new()
        .column("hits", MergeKind::Counter)
        .column("tags", MergeKind::Set);
    Rules::new().table("n", rules)
}

const KEYS: u64 = 20;

/// A small generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A replica in memory: it writes without asking, and merges what it hears.
struct Model {
    number: u8,
    clock: HlcClock,
    seq: u64,
    rows: BTreeMap<RowKey, RowState>,
    events: mpsc::UnboundedReceiver<LogEvent>,
    heard: Position,
}

impl Model {
    /// One transaction of one to three writes, applied here and returned for the store.
    fn transact(&mut self, dice: &mut Dice, table: &Table, keys: u64) -> Upload {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let skew = u64::from(self.number) * 40;
        let now = Millis(u64::try_from(now.as_millis()).unwrap() + skew - 60);
        let stamp = Stamp::new(self.clock.tick(now).unwrap(), replica(self.number));
        let mut written: BTreeMap<RowKey, RowState> = BTreeMap::new();
        for _ in 0..=dice.roll(3) {
            let id = key(i64::try_from(dice.roll(keys)).unwrap());
            let held = self.rows.get(&id).cloned().unwrap_or_default();
            let state = if held.existence().is_present() && dice.roll(4) == 0 {
                removal(held.existence())
            } else if held.existence().is_present() {
                let mut state = RowState::live(stamp);
                write_one(dice, stamp, &mut state);
                write_other(dice, stamp, &mut state, &held);
                state
            } else {
                let mut state = RowState::live(stamp);
                for _ in 0..3 {
                    write_one(dice, stamp, &mut state);
                }
                state
            };
            written.insert(id, state);
        }
        for (id, state) in &written {
            let _ = self.rows.entry(id.clone()).or_default().merge(state);
        }
        self.seq += 1;
        let deltas = written
            .into_iter()
            .map(|(id, state)| delta(table, id, state))
            .collect();
        upload(self.number, self.seq, stamp, deltas)
    }

    fn listen(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                LogEvent::Idle(position) => self.heard = position,
                LogEvent::SchemaChanged(_) => {}
                LogEvent::Transaction(told) => {
                    self.heard = told.position;
                    for delta in told.deltas {
                        self.clock.observe(delta.state.clock().newest());
                        let _ = self.rows.entry(delta.key).or_default().merge(&delta.state);
                    }
                }
            }
        }
    }
}

fn write_one(dice: &mut Dice, stamp: Stamp, state: &mut RowState) {
    let value = i64::try_from(dice.roll(1000)).unwrap();
    let (column, value) = match dice.roll(4) {
        0 => (2, Value::Integer(value)),
        1 => (3, text(&format!("r{value}"))),
        // Now and then not as the store writes it.
        2 => (4, text(&format!("{value}.5"))),
        _ => (5, text(&format!("{value}").repeat(2000))),
    };
    state.set(ColumnId(column), stamp, value);
}

/// Adds to the counter and changes the set, as a replica does that sees `held`.
fn write_other(dice: &mut Dice, stamp: Stamp, state: &mut RowState, held: &RowState) {
    let (hits, tags) = (ColumnId(6), ColumnId(7));
    let added = i64::try_from(dice.roll(9)).unwrap() - 4;
    let counter = Counter::new().write(added, stamp);
    state.set_column(hits, ColumnState::Counter(counter));
    let wanted = text(&format!("[{}, {}]", dice.roll(4), dice.roll(4)));
    let set = MergeKind::Set.write(held.clock().column(tags), &wanted, stamp);
    state.set_column(tags, set.unwrap());
}

fn statement(dice: &mut Dice, keys: u64) -> String {
    let (id, v) = (dice.roll(keys), dice.roll(1000));
    match dice.roll(12) {
        9 => format!("update n set hits = hits + {v} where id between {id} and {id} + 3"),
        10 => format!("update n set tags = '[{}, \"s\"]' where id = {id}", v % 4),
        11 => format!("update n set tags = tags - 0, hits = hits - 1 where id < {id}"),
        0 => format!("delete from n where id = {id}"),
        1 => format!(
            "insert into n values ({id}, {v}, 's{v}', {v}) on conflict (id) do update set a = {v}"
        ),
        2 => format!("update n set id = {} where id = {id}", dice.roll(keys)),
        3 => format!("update n set b = 's{v}', c = {v} where id between {id} and {id} + 3"),
        4 => format!(
            "begin; delete from n where id = {id}; insert into n (id, b) values ({id}, 're{v}'); commit"
        ),
        5 => format!(
            "begin; update n set a = {v} where id = {id}; savepoint s; delete from n; rollback to s; update n set a = a + 1 where id < 5; commit"
        ),
        6 => format!("update n set a = a where id = {id}"),
        7 if v < 50 => "truncate n".to_owned(),
        _ => format!("update n set big = repeat('q{v}', 3000) where id = {id}"),
    }
}

async fn write_sql(url: String, mut dice: Dice, keys: u64, steps: u64) {
    let sql = client(&url).await;
    for _ in 0..steps {
        if sql
            .batch_execute(&statement(&mut dice, keys))
            .await
            .is_err()
        {
            // A key that is taken: the application would see that and go on.
            let _ = sql.batch_execute("rollback").await;
        }
    }
}

async fn run(seed: u64, rounds: u64) {
    let fixture = Fixture::with_rules(DDL, &rules()).await;
    let table = fixture.table("n").await;
    let mut models = models(&fixture, &table).await;
    let sql = write_sql(fixture.url.clone(), Dice(seed ^ 0xabcd), KEYS, rounds * 4);
    let writer = tokio::spawn(sql);
    let mut dice = Dice(seed);
    for _ in 0..rounds {
        one_round(&fixture, &table, &mut dice, &mut models).await;
    }
    writer.await.unwrap();
    all_agree(&fixture, &table, models, seed).await;
}

/// Everybody merges at the same time, over a handful of rows that come and go.
async fn run_contended(seed: u64, rounds: u64) {
    const KEYS_CONTENDED: u64 = 4;
    let fixture = Arc::new(Fixture::with_rules(DDL, &rules()).await);
    let table = fixture.table("n").await;
    let writers: Vec<_> = (0..3)
        .map(|number| {
            let dice = Dice(seed ^ (number << 8));
            tokio::spawn(write_sql(
                fixture.url.clone(),
                dice,
                KEYS_CONTENDED,
                rounds * 4,
            ))
        })
        .collect();
    let merging: Vec<_> = models(&fixture, &table)
        .await
        .into_iter()
        .map(|mut model| {
            let (fixture, table) = (Arc::clone(&fixture), table.clone());
            let mut dice = Dice(seed ^ (u64::from(model.number) << 16));
            tokio::spawn(async move {
                for _ in 0..rounds {
                    model.listen();
                    let made = model.transact(&mut dice, &table, KEYS_CONTENDED);
                    merge_patiently(&fixture, made).await;
                }
                model
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut models = Vec::new();
    for merged in merging {
        models.push(merged.await.unwrap());
    }
    all_agree(&fixture, &table, models, seed).await;
}

async fn merge_patiently(fixture: &Fixture, made: Upload) {
    loop {
        match fixture.store.merge(vec![made.clone()]).await {
            Ok(outcomes) => return assert_eq!(outcomes, [MergeOutcome::Merged]),
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// In the end every replica holds what the store holds, and the clocks say what is in the table.
async fn all_agree(fixture: &Fixture, table: &Table, mut models: Vec<Model>, seed: u64) {
    settle(fixture, &mut models).await;
    let held = fixture.snapshot(table).await.1;
    for model in &mut models {
        model.rows.retain(|_, row| row.existence().is_present());
        assert!(model.rows.keys().eq(held.keys()), "seed {seed}");
        for (id, row) in &model.rows {
            let there = &held[id];
            assert_eq!(
                row.to_bytes(),
                there.to_bytes(),
                "seed {seed}: {row:?}, not {there:?}"
            );
        }
    }
    let rows = fixture.one("select count(*)::text from n").await.unwrap();
    assert_eq!(rows, held.len().to_string());
}

/// Three replicas that hear the same log, each when it listens.
async fn models(fixture: &Fixture, table: &Table) -> Vec<Model> {
    let mut log = fixture.store.follow().await.unwrap();
    let rows = fixture.snapshot(table).await.1;
    let (mut senders, mut models) = (Vec::new(), Vec::new());
    for number in 1..=3 {
        let (sender, events) = mpsc::unbounded_channel();
        senders.push(sender);
        let clock = HlcClock::resume(Hlc::ZERO);
        let rows = rows.clone();
        models.push(Model {
            number,
            clock,
            seq: 0,
            rows,
            events,
            heard: Position(0),
        });
    }
    tokio::spawn(async move {
        while let Some(event) = log.recv().await {
            for sender in &senders {
                let _ = sender.send(event.clone());
            }
        }
    });
    models
}

/// Everybody writes a little, some after listening; now and then all of it is sent twice.
async fn one_round(fixture: &Fixture, table: &Table, dice: &mut Dice, models: &mut [Model]) {
    let mut uploads = Vec::new();
    for model in models {
        if dice.roll(3) > 0 {
            model.listen();
        }
        for _ in 0..dice.roll(3) {
            uploads.push(model.transact(dice, table, KEYS));
        }
    }
    let outcomes = fixture.merge(uploads.clone()).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| *outcome == MergeOutcome::Merged),
        "{outcomes:?}"
    );
    if dice.roll(4) == 0 {
        let again = fixture.merge(uploads).await;
        assert!(
            again
                .iter()
                .all(|outcome| matches!(outcome, MergeOutcome::Duplicate(_)))
        );
    }
}

/// Lets every model hear everything, with what may have been mended on the way.
async fn settle(fixture: &Fixture, models: &mut [Model]) {
    for _ in 0..2 {
        let sql = "select (pg_logical_emit_message(true, 'test', '') - '0/0')::bigint";
        let position: i64 = fixture.sql.query_one(sql, &[]).await.unwrap().get(0);
        let position = Position(position.unsigned_abs());
        for model in models.iter_mut() {
            let deadline = tokio::time::Instant::now() + common::PATIENCE;
            while model.heard < position {
                assert!(tokio::time::Instant::now() < deadline, "the log is silent");
                model.listen();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random() {
    for seed in [1, 4, 20, 300] {
        run(seed, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_contention() {
    for seed in [7, 70] {
        run_contended(seed, 15).await;
    }
}
