//! Running the program, and a service of it that ends with its test.
#![allow(unreachable_pub)]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value as Json;

/// The program, with nothing of the environment that it would listen to.
pub fn anabranch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    for variable in ["URL", "TOKEN", "CONFIG", "LOG", "POSTGRES"] {
        command.env_remove(format!("ANABRANCH_{variable}"));
    }
    command.env("RUST_LOG", "warn");
    command
}

/// Runs the program with the arguments.
pub fn run(arguments: &[&str]) -> Output {
    anabranch().args(arguments).output().unwrap()
}

/// Runs the program, which must succeed; what it printed.
pub fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let (printed, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {printed}\n{told}");
    printed
}

/// Runs the program with `--json`, which must succeed; the one object that it printed.
pub fn succeed_json(arguments: &[&str]) -> Json {
    let arguments = [&["--json"], arguments].concat();
    serde_json::from_str(&succeed(&arguments)).unwrap()
}

/// Runs the program, which must fail with exit code 1; what it told, in one line and a line of advice.
pub fn fail(arguments: &[&str]) -> String {
    let output = run(arguments);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
    assert!(told.starts_with("error: "), "{arguments:?}: {told}");
    told
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Does something again until it gives what is expected: what other programs write into a store is
/// noticed soon, not at once.
pub fn eventually<T: PartialEq + std::fmt::Debug>(expected: &T, mut work: impl FnMut() -> T) {
    let mut last = work();
    for _ in 0..100 {
        if last == *expected {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        last = work();
    }
    assert_eq!(last, *expected);
}

/// A path as an argument.
pub fn argument(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running service, ended with the test.
pub struct Served {
    process: Child,
    /// Kept open: a program that prints to nobody fails.
    _printed: BufReader<ChildStdout>,
    pub announced: Json,
}

impl Served {
    /// Starts a service of the configuration and waits until it says that it serves.
    pub fn start(folder: &Path, configuration: &str) -> Self {
        let path = configure(folder, configuration);
        let mut process = anabranch()
            .args(["--json", "serve", "--config", argument(&path)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        let announced = serde_json::from_str(&line).unwrap();
        Self {
            process,
            _printed: printed,
            announced,
        }
    }

    pub fn url(&self) -> &str {
        self.announced["url"].as_str().unwrap()
    }

    /// Asks the service to end, as an operator would; its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(asked.success());
        self.process.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes a configuration file.
pub fn configure(folder: &Path, configuration: &str) -> PathBuf {
    let path = folder.join("anabranch.toml");
    std::fs::write(&path, configuration).unwrap();
    path
}
