//! Who writes to the file: the engine's transaction, its plain connection, another connection with
//! SQLite's defaults, and the `sqlite3` program. Statements may fail on a constraint and on nothing
//! else. No check lies here.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anabranch_replica::TransactionError;
use rusqlite::{Connection, ErrorCode};

use crate::{common::Site, random::Random, statements::Batch};

#[derive(Clone, Copy, Debug)]
pub enum Writer {
    Engine,
    Application,
    Foreign { foreign_keys: bool },
    Program { foreign_keys: bool },
}

impl Writer {
    pub fn pick(random: &mut Random) -> Self {
        let foreign_keys = random.once_in(2);
        match random.below(30) {
            0..=9 => Self::Engine,
            10..=13 => Self::Application,
            14 => Self::Program { foreign_keys },
            _ => Self::Foreign { foreign_keys },
        }
    }

    pub fn run(self, site: &mut Site, batch: &Batch) {
        match self {
            Self::Engine => engine(site, batch),
            Self::Application => run(site.replica.connection(), batch),
            Self::Foreign { foreign_keys } => {
                let conn = site.foreign();
                conn.pragma_update(None, "foreign_keys", foreign_keys)
                    .unwrap();
                run(&conn, batch);
            }
            Self::Program { foreign_keys } => program(site, batch, foreign_keys),
        }
    }
}

fn engine(site: &mut Site, batch: &Batch) {
    let result = site.replica.transaction(|tx| {
        for sql in &batch.statements {
            attempt(tx, sql);
        }
        if batch.rolled_back {
            Err("rolled back")
        } else {
            Ok(())
        }
    });
    match result {
        Ok(_) => assert!(!batch.rolled_back),
        Err(TransactionError::Work(_)) => assert!(batch.rolled_back),
        Err(error) => assert!(error.to_string().contains("FOREIGN KEY"), "{error}"),
    }
}

fn run(conn: &Connection, batch: &Batch) {
    if batch.together {
        attempt(conn, "BEGIN");
    }
    for sql in &batch.statements {
        attempt(conn, sql);
    }
    if batch.rolled_back {
        attempt(conn, "ROLLBACK");
    } else if batch.together {
        attempt(conn, "COMMIT");
    }
    // What foreign keys did not let it commit.
    if !conn.is_autocommit() {
        attempt(conn, "ROLLBACK");
    }
}

fn attempt(conn: &Connection, sql: &str) {
    match conn.execute_batch(sql) {
        Ok(()) => {}
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// Whether this machine has the `sqlite3` program.
pub fn has_program() -> bool {
    Command::new("sqlite3").arg("--version").output().is_ok()
}

fn program(site: &Site, batch: &Batch, foreign_keys: bool) {
    let mut script = format!("PRAGMA foreign_keys = {foreign_keys};\n");
    let mut line = |sql: &str| script.extend([sql, ";\n"]);
    if batch.together {
        line("BEGIN");
    }
    batch.statements.iter().for_each(|sql| line(sql));
    if batch.together {
        line(if batch.rolled_back {
            "ROLLBACK"
        } else {
            "COMMIT"
        });
    }
    let mut child = Command::new("sqlite3")
        .arg(&site.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let said = child.wait_with_output().unwrap().stderr;
    let said = String::from_utf8_lossy(&said);
    let errors = said.lines().filter(|line| line.contains("rror"));
    for error in errors {
        assert!(error.contains("constraint"), "{said}\n{script}");
    }
}
