//! A row's key as one text, as the side tables hold it, and back. No IO.

use anabranch_crdt::RowKey;
use anabranch_shape::schema::Table;

use crate::values;

/// The texts of the key's parts, as Postgres writes them; `None` where a part is NULL, which no key
/// can be.
pub(crate) fn parts(table: &Table, key: &RowKey) -> Option<Vec<String>> {
    let typed = table.key_columns().zip(&key.0);
    typed
        .map(|(column, value)| values::written(column.kind, value))
        .collect()
}

/// The key text that has these parts.
pub(crate) fn join(parts: &[String]) -> String {
    match parts {
        [only] => only.clone(),
        several => {
            let escaped: Vec<_> = several.iter().map(|part| escape(part)).collect();
            escaped.join(",")
        }
    }
}

/// The parts of a key text; `None` if it has not as many as the table's key.
pub(crate) fn split(table: &Table, text: &str) -> Option<Vec<String>> {
    if table.primary_key.len() == 1 {
        return Some(vec![text.to_owned()]);
    }
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => parts.push(String::new()),
            '\\' => parts.last_mut()?.push(characters.next()?),
            other => parts.last_mut()?.push(other),
        }
    }
    (parts.len() == table.primary_key.len()).then_some(parts)
}

/// The key with these parts, as the engine holds it.
pub(crate) fn typed<'a>(table: &Table, parts: impl Iterator<Item = &'a str>) -> RowKey {
    let columns = table.key_columns();
    RowKey(
        columns
            .zip(parts)
            .map(|(column, text)| values::from_text(column.kind, text))
            .collect(),
    )
}

/// The key that a key text stands for.
pub(crate) fn parse(table: &Table, text: &str) -> Option<RowKey> {
    let parts = split(table, text)?;
    Some(typed(table, parts.iter().map(String::as_str)))
}

fn escape(part: &str) -> String {
    part.replace('\\', "\\\\").replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use anabranch_crdt::{ColumnId, TableId, Value};
    use anabranch_shape::schema::{Column, ColumnType};
    use proptest::prelude::*;

    use super::*;

    fn table(key_columns: u16) -> Table {
        let column = |number| Column {
            id: ColumnId(number),
            name: format!("c{number}"),
            kind: ColumnType::Text,
            declared_type: "text".into(),
            nullable: false,
            has_default: false,
            bytewise_order: false,
            merge: Default::default(),
        };
        Table {
            id: TableId(1),
            namespace: "public".into(),
            name: "t".into(),
            columns: (1..=key_columns).map(column).collect(),
            primary_key: (1..=key_columns).map(ColumnId).collect(),
            foreign_keys: vec![],
            delete: Default::default(),
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_text(texts in prop::collection::vec(".*|[\\\\,a]*", 1..4)) {
            let table = table(u16::try_from(texts.len()).unwrap());
            let key = RowKey(texts.iter().map(|text| Value::text(text)).collect());
            let text = join(&parts(&table, &key).unwrap());
            prop_assert_eq!(parse(&table, &text), Some(key));
        }
    }

    #[test]
    fn commas_separate_and_are_escaped() {
        let key = RowKey(vec![Value::text("a,\\"), Value::Integer(7)]);
        assert_eq!(join(&parts(&table(2), &key).unwrap()), "a\\,\\\\,7");
        assert_eq!(parts(&table(1), &RowKey(vec![Value::Null])), None);
        assert_eq!(parse(&table(2), "only one"), None);
    }
}
