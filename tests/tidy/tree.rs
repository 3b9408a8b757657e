//! The files of the tree that a person wrote: text files, without what is built, fetched or ignored.

use std::{fs, path::Path};

/// A file of the tree.
pub(crate) struct File {
    /// Its path from the root of the tree, with `/` between the parts.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

/// The tree's text files, in the order of their paths.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// Reads the tree that this test was compiled from.
    pub(crate) fn read() -> Self {
        let mut files = Vec::new();
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files);
        files.sort_by(|left, right| left.path.cmp(&right.path));
        assert!(
            files.len() > 50,
            "this is not the tree: it has only {} files",
            files.len()
        );
        Self { files }
    }

    /// The Rust sources.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.with_ending(".rs")
    }

    /// The files whose names end so.
    pub(crate) fn with_ending<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = &'a File> {
        self.files
            .iter()
            .filter(move |file| file.path.ends_with(ending))
    }

    /// The file at a path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl File {
    /// Its name without the directory.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Its directory, empty for the root.
    pub(crate) fn directory(&self) -> &str {
        self.path
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory)
    }
}

fn collect(directory: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(directory).expect("the tree can be read") {
        let entry = entry.expect("the tree can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().expect("the tree can be read").is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.push(File { path, text });
        }
    }
}

/// What is built, fetched or kept by other tools.
const NOT_OURS: [&str; 5] = [".git", ".cargo", ".idea", "node_modules", "target"];
