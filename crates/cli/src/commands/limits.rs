//! `anabranch limits`: every bound and its reason, from the page that the sources are checked against.

use serde_json::{Map, json};

const PAGE: &str = include_str!("../../../../docs/limits.md");

/// Prints the limits.
pub(crate) fn run(json: bool) {
    if json {
        println!("{}", json!({ "limits": as_json() }));
    } else {
        print!("{}", as_text());
    }
}

/// A limit of the page.
struct Limit<'a> {
    area: &'a str,
    name: &'a str,
    value: &'a str,
    reason: &'a str,
}

fn limits() -> Vec<Limit<'static>> {
    let mut area = "";
    let mut found = Vec::new();
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            area = title;
        }
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (name, value) = (cells.next().and_then(code), cells.next().and_then(code));
        if let (Some(name), Some(value), Some(reason)) = (name, value, cells.next()) {
            found.push(Limit {
                area,
                name,
                value,
                reason,
            });
        }
    }
    found
}

fn code(cell: &'static str) -> Option<&'static str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

fn as_text() -> String {
    let mut text = String::new();
    let mut area = "";
    for limit in limits() {
        if limit.area != area {
            let gap = if area.is_empty() { "" } else { "\n" };
            area = limit.area;
            text.push_str(&format!("{gap}{area}\n"));
        }
        text.push_str(&format!(
            "  {} = {}\n      {}\n",
            limit.name, limit.value, limit.reason
        ));
    }
    text
}

fn as_json() -> Map<String, serde_json::Value> {
    let entry = |limit: Limit<'_>| {
        let about = json!({ "area": limit.area, "value": limit.value, "reason": limit.reason });
        (limit.name.to_owned(), about)
    };
    limits().into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_read_whole() {
        let rows = PAGE.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(limits().len(), rows);
        let all = limits();
        let frame = all
            .iter()
            .find(|limit| limit.name == "FRAME_BYTES_MAX")
            .unwrap();
        assert_eq!(
            (frame.area, frame.value),
            ("The protocol", "64 * 1024 * 1024")
        );
    }
}
