//! Rules about Rust sources. They read text, not syntax: enough to count braces and find words.

use std::collections::BTreeSet;

use crate::tree::{File, Tree};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

pub(crate) fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > FILE_LINES_MAX)
        .then(|| format!("{}: {lines} lines, {FILE_LINES_MAX} at most", file.path))
}

pub(crate) fn not_ascii(file: &File) -> Vec<String> {
    let lines = file
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_ascii());
    lines
        .map(|(index, line)| format!("{}:{}: {}", file.path, index + 1, line.trim()))
        .collect()
}

pub(crate) fn left_for_later(file: &File) -> Vec<String> {
    let words = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
    ];
    mentions(file, &words)
}

/// The lines that hold one of `words`.
pub(crate) fn mentions(file: &File, words: &[&str]) -> Vec<String> {
    let lines = file.text.lines().enumerate();
    let found = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word)));
    found
        .map(|(index, line)| format!("{}:{}: {}", file.path, index + 1, line.trim()))
        .collect()
}

/// Source files that no `mod` of their crate declares.
pub(crate) fn orphans(tree: &Tree) -> Vec<String> {
    let mut declared = BTreeSet::new();
    for file in tree.rust() {
        for line in code_of(&file.text).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let position = words.iter().position(|word| *word == "mod");
            let name = position.and_then(|position| words.get(position + 1));
            if let Some(name) = name {
                declared.insert((crate_of(file), name.trim_end_matches(';').to_owned()));
            }
        }
    }
    let sources = tree.rust().filter(|file| file.path.contains("src/"));
    let modules = sources.filter(|file| !["lib.rs", "main.rs"].contains(&file.name()));
    let orphans = modules.filter(|file| {
        let name = match file.name() {
            "mod.rs" => file.directory().rsplit('/').next().unwrap_or_default(),
            name => name.trim_end_matches(".rs"),
        };
        !file.path.contains("src/bin/") && !declared.contains(&(crate_of(file), name.to_owned()))
    });
    orphans.map(|file| file.path.clone()).collect()
}

fn crate_of(file: &File) -> String {
    file.path
        .split("src/")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Functions outside tests with more than [`FUNCTION_LINES_MAX`] lines, from `fn` to the last brace.
pub(crate) fn long_functions(file: &File) -> Vec<String> {
    let is_test = ["tests", "benches"]
        .iter()
        .any(|part| file.path.split('/').any(|own| own == *part));
    if is_test {
        return Vec::new();
    }
    let code = code_of(&file.text);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let long = functions(code).filter(|function| function.lines > FUNCTION_LINES_MAX);
    long.map(|function| {
        let Function { name, line, lines } = function;
        format!(
            "{}:{line}: {name} has {lines} lines, {FUNCTION_LINES_MAX} at most",
            file.path
        )
    })
    .collect()
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
}

/// The functions with a body, in code without comments and literals.
fn functions(code: &str) -> impl Iterator<Item = Function<'_>> {
    code.match_indices("fn ").filter_map(move |(start, _)| {
        let starts_word = code[..start].ends_with([' ', '\n', '(']) || start == 0;
        let name = code[start + 3..].split(['(', '<']).next()?;
        let is_named =
            !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        if !starts_word || !is_named {
            return None;
        }
        let end = start + end_of_body(&code[start..])?;
        let line = 1 + code[..start].matches('\n').count();
        Some(Function {
            name,
            line,
            lines: 1 + code[start..end].matches('\n').count(),
        })
    })
}

/// Where the body of the function at the start of `code` ends; `None` if it has no body.
fn end_of_body(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (index, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if braces == 0 && brackets == 0 => return None,
            b'{' => braces += 1,
            b'}' if braces == 1 => return Some(index + 1),
            b'}' => braces -= 1,
            _ => {}
        }
    }
    None
}

/// The code with comments removed and literals emptied; line breaks stay where they are.
pub(crate) fn code_of(text: &str) -> String {
    stripped(text, false)
}

/// The code with comments removed.
pub(crate) fn uncommented(text: &str) -> String {
    stripped(text, true)
}

fn stripped(text: &str, keep_literals: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_word = false;
    while let Some(first) = rest.chars().next() {
        let (length, is_comment) = match comment_length(rest) {
            Some(length) => (length, true),
            None => (literal_length(rest, in_word).unwrap_or(0), false),
        };
        let (token, after) = rest.split_at(if length == 0 {
            first.len_utf8()
        } else {
            length
        });
        if length == 0 || (keep_literals && !is_comment) {
            out.push_str(token);
        } else {
            out.extend(token.chars().filter(|c| *c == '\n'));
        }
        in_word = length == 0 && (first == '_' || first.is_alphanumeric());
        rest = after;
    }
    out
}

fn comment_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    rest.starts_with("/*")
        .then(|| rest.find("*/").map_or(rest.len(), |end| end + 2))
}

/// The length of the string or character literal at the start, if there is one.
fn literal_length(rest: &str, in_word: bool) -> Option<usize> {
    if rest.starts_with('"') {
        return Some(quoted_length(rest, '"'));
    }
    if let Some(body) = rest.strip_prefix('\'') {
        // Otherwise it is a lifetime.
        let closes = body.starts_with('\\') || body.chars().nth(1) == Some('\'');
        return closes.then(|| quoted_length(rest, '\''));
    }
    let raw = rest
        .strip_prefix("br")
        .or_else(|| rest.strip_prefix('r'))
        .filter(|_| !in_word)?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let body = raw[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body
        .find(&close)
        .map_or(body.len(), |end| end + close.len());
    Some(rest.len() - body.len() + end)
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, found) in rest.char_indices().skip(1) {
        match found {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if found == quote => return index + quote.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[test]
fn literals_and_comments_do_not_count() {
    let code = r####"let a = '{'; // {
let b: &'static str = "} \" {"; /* {
*/ let c = r#"{ " {"#; let d = b'\''; let e = '\u{7b}'; for r in x {}"####;
    let expected =
        "let a = ; \nlet b: &'static str = ; \n let c = ; let d = b; let e = ; for r in x {}";
    assert_eq!(code_of(code), expected);
}

#[test]
fn long_functions_are_found() {
    let body = "    let _ = '{';\n".repeat(FUNCTION_LINES_MAX - 1);
    let file = |text| File {
        path: "crates/x/src/lib.rs".to_owned(),
        text,
    };
    let fits = format!(
        "fn short(a: [u8; 2]) {{}}\nfn fits() {{\n{}}}\n",
        body.replacen("    let _ = '{';\n", "", 1)
    );
    assert_eq!(long_functions(&file(fits)), Vec::<String>::new());
    let long = format!("trait T {{ fn none(); }}\npub const fn long<T>(_: T) {{\n{body}}}\n");
    assert_eq!(
        long_functions(&file(long.clone())),
        ["crates/x/src/lib.rs:2: long has 71 lines, 70 at most"]
    );
    assert_eq!(
        long_functions(&file(format!("#[cfg(test)]\nmod tests {{\n{long}}}"))),
        Vec::<String>::new()
    );
}
