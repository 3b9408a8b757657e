//! Schemas on the wire.

use anabranch_crdt::{ColumnId, MergeKind, TableId};
use anabranch_shape::schema::{
    Column, ColumnType, DeletePolicy, ForeignKey, ReferencePolicy, ReferentialAction, Schema, Table,
};
use bincode::{Decode, Encode};

use super::{CodecError, malformed};

#[derive(Encode, Decode)]
pub(super) struct WireSchema {
    version: u64,
    tables: Vec<WireTable>,
}

#[derive(Encode, Decode)]
struct WireTable {
    id: u32,
    namespace: String,
    name: String,
    columns: Vec<WireColumn>,
    primary_key: Vec<u16>,
    foreign_keys: Vec<WireForeignKey>,
    delete: u8,
}

#[derive(Encode, Decode)]
struct WireColumn {
    id: u16,
    name: String,
    kind: u8,
    declared_type: String,
    nullable: bool,
    has_default: bool,
    bytewise_order: bool,
    merge: u8,
}

#[derive(Encode, Decode)]
struct WireForeignKey {
    columns: Vec<u16>,
    parent: u32,
    parent_columns: Vec<u16>,
    on_delete: u8,
    policy: u8,
}

/// The numbers of the kinds on the wire are their places here; new ones go to the end.
const KINDS: [ColumnType; 14] = [
    ColumnType::Boolean,
    ColumnType::Integer,
    ColumnType::Float,
    ColumnType::Numeric,
    ColumnType::Text,
    ColumnType::Uuid,
    ColumnType::Bytes,
    ColumnType::Date,
    ColumnType::Time,
    ColumnType::Timestamp,
    ColumnType::TimestampTz,
    ColumnType::Json,
    ColumnType::Enum,
    ColumnType::Other,
];

/// As [`KINDS`], for what a delete of a parent does.
const ACTIONS: [ReferentialAction; 4] = [
    ReferentialAction::Refuse,
    ReferentialAction::Cascade,
    ReferentialAction::SetNull,
    ReferentialAction::SetDefault,
];

/// As [`KINDS`], for what a delete does against an update.
const DELETE_POLICIES: [DeletePolicy; 2] = [DeletePolicy::Observed, DeletePolicy::WinsOverUpdate];

/// As [`KINDS`], for what becomes of a child whose parent went.
const REFERENCE_POLICIES: [ReferencePolicy; 3] = [
    ReferencePolicy::Revive,
    ReferencePolicy::Cascade,
    ReferencePolicy::SetNull,
];

fn number_of<T: PartialEq>(known: &[T], value: &T) -> u8 {
    let place = known
        .iter()
        .position(|candidate| candidate == value)
        .unwrap_or(known.len());
    u8::try_from(place).unwrap_or(u8::MAX)
}

impl From<&Schema> for WireSchema {
    fn from(schema: &Schema) -> Self {
        Self {
            version: schema.version,
            tables: schema.tables.iter().map(WireTable::from).collect(),
        }
    }
}

impl From<&Table> for WireTable {
    fn from(table: &Table) -> Self {
        let column = |column: &Column| WireColumn {
            id: column.id.0,
            name: column.name.clone(),
            kind: number_of(&KINDS, &column.kind),
            declared_type: column.declared_type.clone(),
            nullable: column.nullable,
            has_default: column.has_default,
            bytewise_order: column.bytewise_order,
            merge: column.merge.number(),
        };
        let foreign_key = |key: &ForeignKey| WireForeignKey {
            columns: numbers(&key.columns),
            parent: key.parent.0,
            parent_columns: numbers(&key.parent_columns),
            on_delete: number_of(&ACTIONS, &key.on_delete),
            policy: number_of(&REFERENCE_POLICIES, &key.policy),
        };
        Self {
            id: table.id.0,
            namespace: table.namespace.clone(),
            name: table.name.clone(),
            columns: table.columns.iter().map(column).collect(),
            primary_key: numbers(&table.primary_key),
            foreign_keys: table.foreign_keys.iter().map(foreign_key).collect(),
            delete: number_of(&DELETE_POLICIES, &table.delete),
        }
    }
}

impl TryFrom<WireSchema> for Schema {
    type Error = CodecError;

    fn try_from(wire: WireSchema) -> Result<Self, CodecError> {
        let tables = wire
            .tables
            .into_iter()
            .map(Table::try_from)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            version: wire.version,
            tables,
        })
    }
}

impl TryFrom<WireTable> for Table {
    type Error = CodecError;

    fn try_from(wire: WireTable) -> Result<Self, CodecError> {
        let columns = wire.columns.into_iter();
        let columns = columns.map(Column::try_from).collect::<Result<_, _>>()?;
        let delete = DELETE_POLICIES.get(usize::from(wire.delete)).copied();
        let foreign_keys = wire
            .foreign_keys
            .into_iter()
            .map(ForeignKey::try_from)
            .collect::<Result<_, _>>()?;
        let table = Self {
            id: TableId(wire.id),
            namespace: wire.namespace,
            name: wire.name,
            columns,
            primary_key: ids(&wire.primary_key),
            foreign_keys,
            delete: delete.ok_or_else(|| malformed("schema", &"unknown policy of deletes"))?,
        };
        let keyed = table.key_columns().count() == table.primary_key.len();
        if table.primary_key.is_empty() || !keyed {
            return Err(malformed(
                "schema",
                &"a table has no primary key among its columns",
            ));
        }
        Ok(table)
    }
}

impl TryFrom<WireColumn> for Column {
    type Error = CodecError;

    fn try_from(wire: WireColumn) -> Result<Self, CodecError> {
        // Unlike a type, a way of merging cannot be made do without.
        let merge = MergeKind::numbered(wire.merge).ok_or_else(|| {
            malformed(
                "schema",
                &"a column merges in an unknown way; upgrade Anabranch",
            )
        })?;
        Ok(Self {
            id: ColumnId(wire.id),
            name: wire.name,
            // A kind from a newer service is replicated as text, which every kind has.
            kind: KINDS
                .get(usize::from(wire.kind))
                .copied()
                .unwrap_or(ColumnType::Other),
            declared_type: wire.declared_type,
            nullable: wire.nullable,
            has_default: wire.has_default,
            bytewise_order: wire.bytewise_order,
            merge,
        })
    }
}

impl TryFrom<WireForeignKey> for ForeignKey {
    type Error = CodecError;

    fn try_from(wire: WireForeignKey) -> Result<Self, CodecError> {
        let action = ACTIONS.get(usize::from(wire.on_delete)).copied();
        let policy = REFERENCE_POLICIES.get(usize::from(wire.policy)).copied();
        Ok(Self {
            columns: ids(&wire.columns),
            parent: TableId(wire.parent),
            parent_columns: ids(&wire.parent_columns),
            on_delete: action.ok_or_else(|| malformed("schema", &"unknown referential action"))?,
            policy: policy.ok_or_else(|| malformed("schema", &"unknown policy of references"))?,
        })
    }
}

fn numbers(columns: &[ColumnId]) -> Vec<u16> {
    columns.iter().map(|column| column.0).collect()
}

fn ids(numbers: &[u16]) -> Vec<ColumnId> {
    numbers.iter().copied().map(ColumnId).collect()
}
