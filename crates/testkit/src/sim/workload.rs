//! What the replicas, other programs and fate do: small tables, so that everybody meets everybody.

use std::path::Path;

use anabranch_crdt::MergeKind;
use anabranch_protocol::ShapeRequest;
use anabranch_shape::rules::{Rules, TableRules};
use anabranch_store::embedded::EmbeddedCore;
use rusqlite::Connection;

use super::{
    Failure, Rng,
    peer::Peer,
    world::{Happening, World},
};

/// Three related tables, with an integer key, a text key and a composite one; a cascade, a check, a
/// column that shapes filter on, counters and sets. And a table whose rows nobody deletes, so that
/// what was added to its counters can be added up.
const TABLES: &str = "
    CREATE TABLE team (id INTEGER PRIMARY KEY, name TEXT, size INTEGER);
    CREATE TABLE item (
        id TEXT PRIMARY KEY NOT NULL,
        team INTEGER REFERENCES team (id) ON DELETE SET NULL,
        title TEXT,
        score INTEGER NOT NULL CHECK (score >= 0),
        note TEXT,
        votes INTEGER NOT NULL DEFAULT 0,
        marks TEXT
    );
    CREATE TABLE tag (
        item TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        label TEXT NOT NULL,
        weight REAL,
        PRIMARY KEY (item, label)
    );
    CREATE TABLE tally (
        id INTEGER PRIMARY KEY,
        hits INTEGER NOT NULL CHECK (hits > -40),
        labels JSON NOT NULL DEFAULT '[]'
    );
    INSERT INTO tally(id, hits) VALUES (0, 0), (1, 0), (2, 0);
";
const NAMES: [&str; 4] = ["team", "item", "tag", "tally"];
const TALLIES: u64 = 3;
const TEAMS: u64 = 4;
const ITEMS: u64 = 10;
const LABELS: u64 = 3;

fn broken(error: rusqlite::Error) -> Failure {
    Failure::broken("the workload's SQL failed", error)
}

/// Makes the store's file, with some rows written before the engine was installed.
pub(super) fn make_store(path: &Path, rng: &mut Rng) -> Result<(), Failure> {
    let conn = Connection::open(path).map_err(broken)?;
    conn.execute_batch(TABLES).map_err(broken)?;
    for id in 0..TEAMS {
        let sql = "INSERT INTO team VALUES (?1, 'founded', 1)";
        conn.execute(sql, [id.cast_signed()]).map_err(broken)?;
    }
    for _ in 0..ITEMS {
        // A tag may come before its item; then it is not there.
        let _ = statement(rng, Kind::Insert).run(&conn);
    }
    let item = TableRules::new()
        .column("votes", MergeKind::Counter)
        .column("marks", MergeKind::Set);
    let tally = TableRules::new()
        .column("hits", MergeKind::Counter)
        .column("labels", MergeKind::Set);
    let rules = Rules::new().table("item", item).table("tally", tally);
    EmbeddedCore::install_with(path, &NAMES.map(str::to_owned), &rules)
        .map_err(|error| Failure::broken("cannot install", error))
}

/// Subscribes a replica to some shapes of each table, drawn at random.
pub(super) fn subscribe(peer: &mut Peer, rng: &mut Rng) -> Result<(), Failure> {
    let mut filters: Vec<(&str, Option<String>)> = vec![("team", None), ("tally", None)];
    match rng.below(3) {
        0 => filters.push(("item", None)),
        1 => filters.push(("item", Some(format!("score < {}", 3 + rng.below(5))))),
        _ => {
            filters.push(("item", Some(format!("team = {}", rng.below(TEAMS)))));
            filters.push((
                "item",
                Some("score BETWEEN 2 AND 6 OR team IS NULL".to_owned()),
            ));
        }
    }
    let some_labels = rng.chance(500).then(|| "label IN ('l0', 'l2')".to_owned());
    filters.push(("tag", some_labels));
    for (table, filter) in filters {
        let request = ShapeRequest::Spelled {
            table: table.to_owned(),
            filter,
            columns: Vec::new(),
            parameters: Vec::new(),
        };
        let subscribed = peer.replica()?.subscribe(&request);
        subscribed.map_err(|error| Failure::broken("cannot subscribe", error))?;
    }
    Ok(())
}

/// One step: somebody writes, or something breaks.
pub(super) fn step(world: &mut World) -> Result<(), Failure> {
    fault(world)?;
    if world.rng.chance(150) {
        return third_party(world);
    }
    let index = usize::try_from(world.rng.below(world.peers.len() as u64)).unwrap_or(0);
    if world.rng.chance(world.options.shape_change) {
        return change_shapes(world, index);
    }
    if world.rng.chance(200) {
        return type_into_a_row(world, index);
    }
    let foreign = world.rng.chance(150);
    let mut statements = Vec::new();
    for _ in 0..=world.rng.below(3) {
        let kind = kind(&mut world.rng);
        statements.push(statement(&mut world.rng, kind));
    }
    let Some(peer) = world.peers.get_mut(index) else {
        return Ok(());
    };
    if peer.replica()?.schema().tables.is_empty() {
        return Ok(());
    }
    if foreign {
        let conn = peer.foreign_connection()?;
        // A statement that the file's own constraints refuse leaves nothing behind.
        let done = statements.iter().map(|each| each.run(&conn).unwrap_or(0));
        let hits = done.sum();
        drop(conn);
        let sealed = peer.replica()?.seal();
        let sealed = sealed.map_err(|error| Failure::broken("cannot seal", error))?;
        world.committed(index, sealed, hits)?;
    } else {
        transact(world, index, &statements)?;
    }
    world.pump_replica(index)
}

/// What is done in one transaction of a replica.
fn transact(world: &mut World, index: usize, statements: &[Statement]) -> Result<(), Failure> {
    let Some(peer) = world.peers.get_mut(index) else {
        return Ok(());
    };
    let mut hits = 0;
    let committed = peer.replica()?.transaction(|tx| {
        for each in statements {
            hits += each.run(tx)?;
        }
        Ok::<_, rusqlite::Error>(())
    });
    match committed {
        Ok(committed) => world.committed(index, committed.seq, hits),
        Err(_) => Ok(()),
    }
}

/// Writes to one row in several transactions, as typing does, and often without a connection, so that a
/// replica has something to squash when it comes back.
fn type_into_a_row(world: &mut World, index: usize) -> Result<(), Failure> {
    let Some(peer) = world.peers.get_mut(index) else {
        return Ok(());
    };
    let session = peer.session;
    if peer.replica()?.schema().tables.is_empty() {
        return Ok(());
    }
    if let Some(session) = session.filter(|_| world.rng.chance(500)) {
        world.break_link(session);
    }
    let (item, tally) = (world.rng.below(ITEMS), world.rng.below(TALLIES));
    let inserts = world.rng.chance(300);
    for _ in 0..2 + world.rng.below(4) {
        let (text, score) = (world.rng.below(1000), world.rng.below(50).cast_signed() - 1);
        let hits = world.rng.below(7).cast_signed() - 3;
        let (sql, hits) = match world.rng.below(4) {
            0 if inserts => (
                format!(
                    "INSERT INTO item VALUES ('i{item}', NULL, 't{text}', 1, 'n{text}', 1, '[1]') \
                     ON CONFLICT (id) DO UPDATE SET title = excluded.title, votes = votes + 1"
                ),
                0,
            ),
            0 => (
                format!("UPDATE item SET score = {score} WHERE id = 'i{item}'"),
                0,
            ),
            1 => (
                format!("UPDATE tally SET hits = hits + {hits} WHERE id = {tally}"),
                hits,
            ),
            _ => (
                format!("UPDATE item SET note = 'y{text}', votes = votes + 1 WHERE id = 'i{item}'"),
                0,
            ),
        };
        transact(world, index, &[Statement { sql, hits }])?;
    }
    world.pump_replica(index)
}

/// Lets go of one of a replica's shapes, or subscribes again to one that it let go of.
fn change_shapes(world: &mut World, index: usize) -> Result<(), Failure> {
    let Some(peer) = world.peers.get_mut(index) else {
        return Ok(());
    };
    let returns = world.rng.chance(500);
    let failed = |error| Failure::broken("cannot change shapes", error);
    let returning = if returns { peer.let_go.pop() } else { None };
    match returning {
        Some(shape) => drop(peer.replica()?.subscribe(&shape).map_err(failed)?),
        None => {
            let held = peer.replica()?.subscriptions().map_err(failed)?;
            if let Some(one) = world.rng.pick(&held) {
                peer.replica()?.unsubscribe(one.id).map_err(failed)?;
                peer.let_go.push(one.shape.clone());
            }
        }
    }
    peer.driver.subscriptions_changed();
    world.pump_replica(index)
}

fn third_party(world: &mut World) -> Result<(), Failure> {
    let kind = kind(&mut world.rng);
    let statement = statement(&mut world.rng, kind);
    let conn = Connection::open(&world.service.path).map_err(broken)?;
    let hits = statement.run(&conn).unwrap_or(0);
    world.model.count(hits);
    drop(conn);
    world.store_written();
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Insert,
    Update,
    Delete,
}

fn kind(rng: &mut Rng) -> Kind {
    match rng.below(10) {
        0..4 => Kind::Insert,
        4..8 => Kind::Update,
        _ => Kind::Delete,
    }
}

/// What a program does at once.
struct Statement {
    sql: String,
    /// What it adds to the hits of each row it finds.
    hits: i64,
}

impl Statement {
    /// Runs it; what it added to hits in all.
    fn run(&self, conn: &Connection) -> rusqlite::Result<i64> {
        // Programs differ in whether they have foreign keys on.
        conn.execute_batch("PRAGMA foreign_keys = ON")?;
        let rows = conn.execute(&self.sql, [])?;
        Ok(self.hits * i64::try_from(rows).unwrap_or(0))
    }
}

fn statement(rng: &mut Rng, kind: Kind) -> Statement {
    if matches!(kind, Kind::Update) && rng.chance(300) {
        let (row, hits) = (rng.below(TALLIES), rng.below(7).cast_signed() - 3);
        let (label, number) = (rng.below(LABELS), rng.below(4));
        let labels = match rng.below(3) {
            0 => format!("json_insert(labels, '$[#]', 'l{label}')"),
            1 => "json_remove(labels, '$[0]')".to_owned(),
            _ => format!("'[{number}, \"l{label}\"]'"),
        };
        let sql =
            format!("UPDATE tally SET hits = hits + {hits}, labels = {labels} WHERE id = {row}");
        return Statement { sql, hits };
    }
    let sql = sql_for(rng, kind);
    Statement { sql, hits: 0 }
}

fn sql_for(rng: &mut Rng, kind: Kind) -> String {
    let (team, item, label) = (rng.below(TEAMS), rng.below(ITEMS), rng.below(LABELS));
    // One score in fifty breaks the check of the store and of no replica.
    let score = if rng.chance(20) {
        -1
    } else {
        rng.below(9).cast_signed()
    };
    let text = rng.below(1000);
    match (kind, rng.below(5)) {
        (Kind::Insert, 0) => {
            format!("INSERT INTO team VALUES ({team}, 't{text}', {score}) ON CONFLICT DO NOTHING")
        }
        (Kind::Insert, 1) => {
            format!("INSERT OR REPLACE INTO tag VALUES ('i{item}', 'l{label}', {text}.5)")
        }
        (Kind::Insert, _) => format!(
            "INSERT INTO item VALUES ('i{item}', {team}, 't{text}', {}, 'n{text}', {label}, \
             '[{label}]') ON CONFLICT (id) DO UPDATE SET title = excluded.title, votes = votes + 1",
            score.max(0)
        ),
        (Kind::Update, 0) => format!("UPDATE team SET name = 'u{text}' WHERE id = {team}"),
        (Kind::Update, 1) => format!("UPDATE tag SET weight = {text} WHERE label = 'l{label}'"),
        (Kind::Update, 2) => format!("UPDATE item SET score = {score} WHERE id = 'i{item}'"),
        (Kind::Update, 3) => format!(
            "UPDATE item SET votes = votes + 1, marks = json_insert(marks, '$[#]', {text}) \
             WHERE id = 'i{item}'"
        ),
        (Kind::Update, _) => {
            format!("UPDATE item SET note = 'w{text}', team = {team} WHERE id = 'i{item}'")
        }
        (Kind::Delete, 0) => format!("DELETE FROM team WHERE id = {team}"),
        (Kind::Delete, 1) => format!("DELETE FROM tag WHERE item = 'i{item}'"),
        (Kind::Delete, _) => format!("DELETE FROM item WHERE id = 'i{item}'"),
    }
}

/// Lets something break, now and then.
fn fault(world: &mut World) -> Result<(), Failure> {
    let options = world.options.clone();
    let index = usize::try_from(world.rng.below(world.peers.len() as u64)).unwrap_or(0);
    let session = world.peers.get(index).and_then(|peer| peer.session);
    if world.rng.chance(options.disconnect)
        && let Some(session) = session
    {
        world.faults += 1;
        world.break_link(session);
    }
    if world.rng.chance(options.partition) {
        world.faults += 1;
        let heals = world.rng.chance(500);
        if let Some(peer) = world.peers.get_mut(index) {
            peer.cut_off = !heals;
        }
        if let Some(session) = session {
            world.break_link(session);
        }
    }
    if world.rng.chance(options.replica_crash) {
        world.faults += 1;
        if let Some(session) = session {
            world.links.remove(&session);
            let delay = world.rng.below(3_000);
            world.after(delay, Happening::ServiceLost(session));
        }
        if let Some(peer) = world.peers.get_mut(index) {
            peer.crash()?;
        }
        world.after(0, Happening::Wakes { peer: index });
    }
    if world.rng.chance(options.service_crash) {
        world.faults += 1;
        world.kill_service()?;
    }
    if world.rng.chance(options.forgetting) {
        world.faults += 1;
        world.forget_removed()?;
    }
    if world.rng.chance(options.clock_jump) {
        world.faults += 1;
        // Mostly minutes either way, at times a year.
        let most_ms = if world.rng.chance(100) {
            31_536_000_000
        } else {
            900_000
        };
        let skew_ms = world.rng.below(2 * most_ms).cast_signed() - most_ms.cast_signed();
        if let Some(peer) = world.peers.get(index) {
            peer.set_skew(skew_ms);
        }
    }
    Ok(())
}
