//! Finds the Postgres programs on this machine. Installs nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use thiserror::Error;

/// Where the Postgres programs lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgBinaries {
    directory: PathBuf,
    psql: PathBuf,
    version: String,
}

/// There is no usable Postgres on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no Postgres server programs found: {looked}. Install them with `apt-get install postgresql` \
     (`./scripts/test` does so when run as root), or set {VARIABLE} to the directory that holds \
     `initdb`, `postgres` and `psql`"
)]
pub struct NotFound {
    looked: String,
}

impl PgBinaries {
    /// Looks in the directory that the environment variable `ANABRANCH_PG_BIN` names; without it, in
    /// Debian's directories, the newest version first, and where `pg_config` points.
    pub fn find() -> Result<Self, NotFound> {
        if let Some(directory) = env::var_os(VARIABLE) {
            let directory = PathBuf::from(directory);
            let looked = format!("{VARIABLE} names {}, which lacks some", directory.display());
            return Self::at(&directory).ok_or(NotFound { looked });
        }
        let candidates = debian_directories()
            .into_iter()
            .chain(pg_config_directory());
        candidates
            .into_iter()
            .find_map(|directory| Self::at(&directory))
            .ok_or_else(|| NotFound {
                looked: format!("neither in {DEBIAN}/*/bin nor where `pg_config` points"),
            })
    }

    /// The directory of the server's programs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The `psql` client.
    pub fn psql(&self) -> &Path {
        &self.psql
    }

    /// The server's version as it gives it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's major version.
    pub fn major_version(&self) -> u32 {
        let digits = self.version.split(|c: char| !c.is_ascii_digit()).next();
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_default()
    }

    fn at(directory: &Path) -> Option<Self> {
        if !directory.join("initdb").is_file() {
            return None;
        }
        let version = printed_by(Command::new(directory.join("postgres")).arg("--version"))?;
        let version = version
            .strip_prefix("postgres (PostgreSQL) ")
            .unwrap_or(&version)
            .to_owned();
        // Some distributions of the server come without a client; any version's client will do.
        let beside = directory.join("psql");
        let psql = if beside.is_file() {
            beside
        } else {
            PathBuf::from("psql")
        };
        printed_by(Command::new(&psql).arg("--version"))?;
        Some(Self {
            directory: directory.to_owned(),
            psql,
            version,
        })
    }
}

fn debian_directories() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable_by(|left, right| right.cmp(left));
    versions
        .into_iter()
        .map(|(_, directory)| directory)
        .collect()
}

fn pg_config_directory() -> Option<PathBuf> {
    printed_by(Command::new("pg_config").arg("--bindir")).map(PathBuf::from)
}

/// What a program prints, if it can be run and succeeds.
fn printed_by(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

const VARIABLE: &str = "ANABRANCH_PG_BIN";
const DEBIAN: &str = "/usr/lib/postgresql";
