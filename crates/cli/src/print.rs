//! How values, stamps and tables are shown, to people as text and to programs as JSON.

use std::fmt::Write;

use anabranch_crdt::{Hlc, Millis, ReplicaId, Stamp, Value};
use serde_json::{Value as Json, json};

/// A value as SQL would write it.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        _ => plain(value),
    }
}

/// A value as a cell of a printed table.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(real) => real.get().to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => format!("x'{}'", hex(bytes)),
    }
}

/// A value for programs. JSON has no bytes, so those come as SQL writes them.
pub(crate) fn json_value(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(number) => json!(number),
        Value::Real(real) => json!(real.get()),
        Value::Text(text) => json!(text),
        Value::Blob(_) => json!(plain(value)),
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A moment as `2026-11-20 09:42:33.125`, in UTC.
pub(crate) fn moment(time: Millis) -> String {
    let (days, in_day) = (time.0 / DAY_MS, time.0 % DAY_MS);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {}",
        time_of_day(Millis(in_day))
    )
}

/// The time of day of a moment as `09:42:33.125`, in UTC.
pub(crate) fn time_of_day(time: Millis) -> String {
    let in_day = time.0 % DAY_MS;
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

/// A clock reading: its moment, and its counter where that says anything.
pub(crate) fn reading(hlc: Hlc) -> String {
    match (hlc, hlc.counter()) {
        (Hlc::ZERO, _) => "before installation".to_owned(),
        (_, 0) => moment(hlc.millis()),
        (_, counter) => format!("{} +{counter}", moment(hlc.millis())),
    }
}

/// Who made a stamp, as seen from the replica `here`.
pub(crate) fn author(replica: ReplicaId, here: Option<ReplicaId>) -> String {
    match replica {
        ReplicaId::SERVER => "the store".to_owned(),
        own if Some(own) == here => "this replica".to_owned(),
        other => other.to_string(),
    }
}

/// A stamp for programs.
pub(crate) fn json_stamp(stamp: Stamp) -> Json {
    json!({
        "time_ms": stamp.hlc.millis().0,
        "counter": stamp.hlc.counter(),
        "replica": stamp.replica.to_string(),
    })
}

/// Rows under a header, each column as wide as its widest cell.
pub(crate) fn table<S: AsRef<str>>(header: &[S], rows: &[Vec<String>]) -> String {
    let width_of = |cell: &str| cell.chars().count();
    let mut widths: Vec<usize> = header.iter().map(|cell| width_of(cell.as_ref())).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(width_of(cell));
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let joined = padded.collect::<Vec<_>>().join("  ");
        text.push_str(joined.trim_end());
        text.push('\n');
    };
    line(&mut header.iter().map(AsRef::as_ref));
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&mut rule.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A count with its noun, in the plural where it is one.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// The date of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(Millis(0)), "1970-01-01 00:00:00.000");
        assert_eq!(moment(Millis(951_782_400_007)), "2000-02-29 00:00:00.007");
        assert_eq!(moment(Millis(1_790_000_000_500)), "2026-09-21 14:13:20.500");
    }

    #[test]
    fn columns_align_and_lines_end_with_their_text() {
        let rows = [
            vec!["1".to_owned(), "long text".to_owned()],
            vec!["10".into(), "x".into()],
        ];
        let expected = "id  name\n--  ---------\n1   long text\n10  x\n";
        assert_eq!(table(&["id", "name"], &rows), expected);
    }

    #[test]
    fn literals_are_sql() {
        assert_eq!(literal(&Value::text("it's")), "'it''s'");
        assert_eq!(literal(&Value::Blob(vec![0, 255])), "x'00ff'");
        assert_eq!(literal(&Value::Null), "NULL");
    }
}
