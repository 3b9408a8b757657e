//! The house rules that a program can check. Each test lists every offence it finds, not just the
//! first. What clippy and rustfmt check already is not repeated here.

mod documents;
mod rust;
mod tree;

use tree::Tree;

/// Fails with the whole list, if there is one.
#[track_caller]
fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_source_file_says_what_it_is() {
    let tree = Tree::read();
    let offences = tree.rust().filter(|file| !file.text.starts_with("//!"));
    assert_none(
        "the first line of a .rs file is a `//!` sentence that says what it is and what it is not",
        &offences.map(|file| file.path.clone()).collect::<Vec<_>>(),
    );
}

#[test]
fn no_source_file_is_too_long() {
    let offences = Tree::read()
        .rust()
        .filter_map(rust::too_long)
        .collect::<Vec<_>>();
    assert_none("split these files by what changes together", &offences);
}

#[test]
fn no_function_is_too_long() {
    let offences = Tree::read()
        .rust()
        .flat_map(rust::long_functions)
        .collect::<Vec<_>>();
    assert_none("split these functions", &offences);
}

#[test]
fn sources_are_ascii() {
    let offences = Tree::read()
        .rust()
        .flat_map(rust::not_ascii)
        .collect::<Vec<_>>();
    assert_none(
        "write ASCII, or an escape such as \\u{e9}, in Rust sources",
        &offences,
    );
}

#[test]
fn nothing_is_left_for_later() {
    let offences = Tree::read()
        .rust()
        .flat_map(rust::left_for_later)
        .collect::<Vec<_>>();
    assert_none("finish it, or leave it out", &offences);
}

#[test]
fn every_module_is_part_of_its_crate() {
    let offences = rust::orphans(&Tree::read());
    assert_none(
        "no `mod` declares these files, so nothing compiles them",
        &offences,
    );
}

#[test]
fn only_the_codec_knows_how_frames_are_serialised() {
    let tree = Tree::read();
    let elsewhere = tree
        .rust()
        .filter(|file| !file.path.starts_with("crates/protocol/src/codec"));
    let words = [concat!("bincode", "::"), concat!("use ", "bincode")];
    let offences = elsewhere
        .flat_map(|file| rust::mentions(file, &words))
        .collect::<Vec<_>>();
    assert_none(
        "leave the serialiser to crates/protocol/src/codec",
        &offences,
    );
}

#[test]
fn pure_crates_read_no_clock() {
    let tree = Tree::read();
    let pure = [
        "crates/crdt/src/",
        "crates/shape/src/",
        "crates/protocol/src/",
    ];
    let files = tree
        .rust()
        .filter(|file| pure.iter().any(|start| file.path.starts_with(start)));
    let words = [concat!("SystemTime", "::now"), concat!("Instant", "::now")];
    let offences = files
        .flat_map(|file| rust::mentions(file, &words))
        .collect::<Vec<_>>();
    assert_none("the time is an argument here", &offences);
}

#[test]
fn every_limit_is_documented() {
    let offences = documents::undocumented_limits(&Tree::read());
    assert_none(
        "docs/limits.md gives every limit with its expression as in the source",
        &offences,
    );
}

#[test]
fn the_protocol_document_is_of_this_protocol() {
    let offences = documents::protocol_mismatch(&Tree::read());
    assert_none(
        "bring docs/protocol.md up to date with the protocol's sources",
        &offences,
    );
}

#[test]
fn links_between_documents_resolve() {
    let offences = documents::dead_links(&Tree::read());
    assert_none("these links lead nowhere", &offences);
}

#[test]
fn every_page_is_in_the_summary() {
    let offences = documents::pages_not_listed(&Tree::read());
    assert_none("docs/SUMMARY.md lists every page", &offences);
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let tree = Tree::read();
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let offences = tree
        .files
        .iter()
        .flat_map(|file| rust::mentions(file, &words))
        .collect::<Vec<_>>();
    assert_none("name no path of a machine", &offences);
}

#[test]
fn every_package_keeps_the_workspace_lints() {
    let tree = Tree::read();
    let packages = tree
        .files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml"));
    let lax = packages.filter(|file| !file.text.contains("[lints]\nworkspace = true"));
    assert_none(
        "a package's Cargo.toml has `[lints]` with `workspace = true`",
        &lax.map(|file| file.path.clone()).collect::<Vec<_>>(),
    );
}

#[test]
fn every_ignored_advisory_has_a_reason() {
    let tree = Tree::read();
    let deny = tree.file("deny.toml").expect("there is a deny.toml");
    let ids = deny
        .text
        .lines()
        .filter(|line| line.contains(r#""RUSTSEC-"#));
    let offences = ids
        .filter(|line| !line.contains(r#"reason = ""#))
        .map(str::to_owned);
    assert_none(
        r#"write `{ id = "RUSTSEC-...", reason = "..." }` on one line of deny.toml"#,
        &offences.collect::<Vec<_>>(),
    );
}
