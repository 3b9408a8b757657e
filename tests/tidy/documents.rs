//! Rules about documents: they speak of what the sources say now.

use std::path::{Component, Path, PathBuf};

use crate::{
    rust,
    tree::{File, Tree},
};

/// Limits that docs/limits.md does not give, or gives with another expression.
pub(crate) fn undocumented_limits(tree: &Tree) -> Vec<String> {
    let document = tree
        .file("docs/limits.md")
        .map_or("", |file| file.text.as_str());
    let mut offences = Vec::new();
    let mut names = Vec::new();
    // The command that prints the page is called the same and sets none.
    let sources = tree.with_ending("/limits.rs");
    for file in sources.filter(|file| !file.path.contains("/commands/")) {
        for (name, expression) in constants(&file.text) {
            // Two crates may use one name; each of them has a row.
            let start = format!("| `{name}` | `{expression}` |");
            if !document.lines().any(|line| line.starts_with(&start)) {
                offences.push(format!("{}: `{name}` is `{expression}`", file.path));
            }
            names.push(name);
        }
    }
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let gone = rows.filter(|row| !names.iter().any(|name| name == row));
    offences.extend(gone.map(|row| format!("docs/limits.md: `{row}` is no limit any more")));
    offences
}

/// The constants in a source, with their expressions on one line.
fn constants(text: &str) -> Vec<(String, String)> {
    let code = rust::uncommented(text);
    let declarations = code.split("const ").skip(1).filter_map(|rest| {
        let (declaration, _) = rest.split_once(";\n")?;
        let (name, typed) = declaration.split_once(": ")?;
        let (_, expression) = typed.split_once('=')?;
        let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        Some((name.to_owned(), expression))
    });
    declarations.collect()
}

/// The document bears a fingerprint of the sources that it describes.
pub(crate) fn protocol_mismatch(tree: &Tree) -> Vec<String> {
    let starts = ["crates/protocol/src/codec", "crates/protocol/src/frames"];
    let sources = tree
        .rust()
        .filter(|file| starts.iter().any(|start| file.path.starts_with(start)));
    let line = format!(
        "<!-- fingerprint of the sources: {:016x} -->",
        fingerprint(sources)
    );
    match tree.file("docs/protocol.md") {
        Some(document) if document.text.lines().any(|own| own == line) => Vec::new(),
        _ => vec![format!(
            "once docs/protocol.md says what the sources do, put in this line: {line}"
        )],
    }
}

/// FNV-1a over the code, so that comments and line breaks do not matter.
fn fingerprint<'a>(sources: impl Iterator<Item = &'a File>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in sources {
        let code = rust::uncommented(&file.text);
        for byte in code.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// Relative links of markdown documents to files that are not there.
pub(crate) fn dead_links(tree: &Tree) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut offences = Vec::new();
    for document in tree.with_ending(".md") {
        for target in links(&document.text) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if path.is_empty() || is_elsewhere {
                continue;
            }
            let place = root.join(document.directory()).join(path);
            if !place.exists() || !normalised(&place).starts_with(root) {
                offences.push(format!("{}: {target}", document.path));
            }
        }
    }
    offences
}

/// The targets of the links in a text, but for examples in code.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut targets = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let openings = line.split("](").skip(1);
        targets.extend(
            openings
                .filter_map(|rest| rest.split_once(')'))
                .map(|(target, _)| target),
        );
    }
    targets
}

/// The path without `.` and `..`.
fn normalised(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Pages below docs/ that the summary does not link to.
pub(crate) fn pages_not_listed(tree: &Tree) -> Vec<String> {
    let summary = tree
        .file("docs/SUMMARY.md")
        .map_or("", |file| file.text.as_str());
    let listed = links(summary);
    let pages = tree
        .with_ending(".md")
        .filter_map(|file| file.path.strip_prefix("docs/"));
    let missing = pages.filter(|page| *page != "SUMMARY.md" && !listed.contains(page));
    missing.map(|page| format!("docs/{page}")).collect()
}

#[test]
fn constants_are_read_with_their_expressions() {
    let text = "/// A.\npub const A_MAX: usize = 4 *\n    1024; // const B: u8 = 1;\nconst C: (u16, u16) = (1, 1);\n";
    let found = constants(&text.replace("; //", ";\n//"));
    let expected = [("A_MAX", "4 * 1024"), ("C", "(1, 1)")];
    assert_eq!(
        found,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn fingerprints_ignore_comments_and_layout() {
    let of = |text: &str| {
        let file = File {
            path: String::new(),
            text: text.to_owned(),
        };
        fingerprint([file].iter())
    };
    assert_eq!(
        of("enum A { B, /* why */ C }"),
        of("// Two.\nenum A {\n    B,\n    C\n}")
    );
    assert_ne!(of("enum A { B, C }"), of("enum A { C, B }"));
    assert_ne!(
        of("const A: &str = \"// b\";"),
        of("const A: &str = \"// c\";")
    );
}

#[test]
fn links_in_code_are_examples() {
    assert_eq!(
        links("[a](b.md#c) and [d](e.md)\n```\n[f](g.md)\n```\n"),
        ["b.md#c", "e.md"]
    );
}
