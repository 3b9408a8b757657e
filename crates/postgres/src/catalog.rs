//! The replicated tables as Postgres's catalogue describes them, and the SQL that names them.

use std::{collections::BTreeMap, sync::Arc};

use anabranch_crdt::{ColumnId, MergeKind, TableId};
use anabranch_shape::schema::{
    Column, ColumnType, DeletePolicy, ForeignKey, ReferencePolicy, ReferentialAction, Schema, Table,
};
use anabranch_store::StoreError;
use tokio_postgres::Row;

use crate::{errors::store_error, pool::Lease};

/// The schema, and what only Postgres needs to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub(crate) schema: Arc<Schema>,
    pub(crate) tables: BTreeMap<TableId, PgTable>,
}

/// A table and how to name it and its columns in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PgTable {
    pub(crate) table: Table,
    pub(crate) oid: u32,
    /// The types that texts are cast to, by column, without their modifiers: an assignment applies
    /// those, and unlike a cast it does not cut a text that is too long.
    casts: BTreeMap<ColumnId, String>,
    /// The types as the log names them, by column.
    pub(crate) types: BTreeMap<ColumnId, u32>,
}

impl Catalog {
    /// Reads the catalogue. The version of the schema grows if it differs from the last one read,
    /// by whichever service.
    pub(crate) async fn read(lease: &mut Lease) -> Result<Self, StoreError> {
        let failed = |error| store_error(&error);
        let table_rows = lease.query(TABLES_SQL, &[]).await.map_err(failed)?;
        let column_rows = lease.query(COLUMNS_SQL, &[]).await.map_err(failed)?;
        let key_rows = lease.query(FOREIGN_KEYS_SQL, &[]).await.map_err(failed)?;

        let tables = assemble(&table_rows, &column_rows, &key_rows)?;
        let mut altered = false;
        for row in &table_rows {
            altered |= field::<bool>(row, "altered")?;
        }
        if altered {
            renew_triggers(lease).await;
        }
        let plain: Vec<Table> = tables.values().map(|table| table.table.clone()).collect();
        let fingerprint = format!("{plain:?}");
        let rows = lease
            .query(VERSION_SQL, &[&fingerprint])
            .await
            .map_err(failed)?;
        let version: i64 = rows
            .first()
            .map_or(Ok(0), |row| row.try_get(0))
            .map_err(failed)?;
        let schema = Schema {
            version: version.unsigned_abs(),
            tables: plain,
        };
        Ok(Self {
            schema: Arc::new(schema),
            tables,
        })
    }

    /// The table with this number in Postgres's catalogue.
    pub(crate) fn by_oid(&self, oid: u32) -> Option<&PgTable> {
        self.tables.values().find(|table| table.oid == oid)
    }

    /// The tables, every parent before its children as far as foreign keys form no cycle.
    pub(crate) fn parents_first(&self) -> Vec<TableId> {
        let mut ordered = Vec::new();
        for id in self.tables.keys() {
            self.visit(*id, &mut Vec::new(), &mut ordered);
        }
        ordered
    }

    fn visit(&self, id: TableId, path: &mut Vec<TableId>, ordered: &mut Vec<TableId>) {
        if path.contains(&id) || ordered.contains(&id) {
            return;
        }
        path.push(id);
        if let Some(table) = self.tables.get(&id) {
            for key in &table.table.foreign_keys {
                self.visit(key.parent, path, ordered);
            }
        }
        path.pop();
        ordered.push(id);
    }
}

impl PgTable {
    /// The qualified name, quoted.
    pub(crate) fn name(&self) -> String {
        format!(
            "{}.{}",
            quote(&self.table.namespace),
            quote(&self.table.name)
        )
    }

    /// The type to cast a column's text to.
    pub(crate) fn cast(&self, id: ColumnId) -> &str {
        self.casts.get(&id).map_or("text", String::as_str)
    }

    /// The texts of `columns` of the row called `alias`, as an array.
    pub(crate) fn cells<'a>(alias: &str, columns: impl Iterator<Item = &'a Column>) -> String {
        let texts: Vec<String> = columns.map(|column| text_of(alias, &column.name)).collect();
        format!("array[{}]::text[]", texts.join(", "))
    }

    /// The key text of the row called `alias`.
    pub(crate) fn key_text(&self, alias: &str) -> String {
        let text = |column: &Column| format!("concat({alias}.{})", quote(&column.name));
        joined(self.table.key_columns().map(text).collect())
    }

    /// The key text that Postgres writes for the key whose parts `keys` holds as texts.
    pub(crate) fn canonical_key(&self, keys: &str) -> String {
        let text = |(part, column): (String, &Column)| {
            format!("concat({keys}.{part}::{})", column.declared_type)
        };
        joined(
            self.part_names()
                .into_iter()
                .zip(self.table.key_columns())
                .map(text)
                .collect(),
        )
    }

    /// The names of the key's parts among the columns of an `unnest`.
    pub(crate) fn part_names(&self) -> Vec<String> {
        (1..=self.table.primary_key.len())
            .map(|number| format!("k{number}"))
            .collect()
    }

    /// The condition that the row called `row` has the key whose parts `keys` holds as texts.
    pub(crate) fn has_key(&self, row: &str, keys: &str) -> String {
        let equal = |(part, column): (String, &Column)| {
            format!(
                "{row}.{} = {keys}.{part}::{}",
                quote(&column.name),
                self.cast(column.id)
            )
        };
        let conditions = self
            .part_names()
            .into_iter()
            .zip(self.table.key_columns())
            .map(equal);
        conditions.collect::<Vec<_>>().join(" and ")
    }
}

/// The SQL of a key text, of that of its parts.
fn joined(parts: Vec<String>) -> String {
    let escape = |part: String| format!("replace(replace({part}, '\\', '\\\\'), ',', '\\,')");
    let text = match parts.len() {
        1 => parts.concat(),
        _ => parts
            .into_iter()
            .map(escape)
            .collect::<Vec<_>>()
            .join(" || ',' || "),
    };
    format!("({text}) collate \"C\"")
}

/// The text of a column as its type's output function writes it, which is also what the log says.
pub(crate) fn text_of(alias: &str, column: &str) -> String {
    let column = format!("{alias}.{}", quote(column));
    format!("case when {column} is distinct from null then concat({column}) end")
}

/// An identifier, quoted.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The number of a column as the engine counts.
pub(crate) fn column_id(attnum: i16) -> Result<ColumnId, StoreError> {
    let number = u16::try_from(attnum);
    number
        .map(ColumnId)
        .map_err(|_| StoreError::Damaged(format!("column number {attnum}")))
}

/// The number of a table as the engine counts.
pub(crate) fn table_id(number: i32) -> Result<TableId, StoreError> {
    let id = u32::try_from(number);
    id.map(TableId)
        .map_err(|_| StoreError::Damaged(format!("table number {number}")))
}

/// The number of a table as the side tables hold it.
pub(crate) fn table_number(id: TableId) -> Result<i32, StoreError> {
    i32::try_from(id.0).map_err(|_| StoreError::Damaged(format!("table number {}", id.0)))
}

/// A field of a row of the catalogue.
pub(crate) fn field<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    name: &str,
) -> Result<T, StoreError> {
    row.try_get(name)
        .map_err(|error| StoreError::Damaged(format!("{name}: {error}")))
}

/// The tables that rows of the three queries below describe.
pub(crate) fn assemble(
    table_rows: &[Row],
    column_rows: &[Row],
    key_rows: &[Row],
) -> Result<BTreeMap<TableId, PgTable>, StoreError> {
    let mut tables = BTreeMap::new();
    for row in table_rows {
        let table = pg_table(row)?;
        tables.insert(table.table.id, table);
    }
    for row in column_rows {
        add_column(&mut tables, row)?;
    }
    for row in key_rows {
        add_foreign_key(&mut tables, row)?;
    }
    Ok(tables)
}

/// A rule as the store keeps it.
fn rule<T>(row: &Row, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, StoreError> {
    let word: &str = field(row, name)?;
    read(word).ok_or_else(|| {
        StoreError::Misconfigured(format!(
            "a table has the rule {word:?}, which this version does not know; upgrade Anabranch"
        ))
    })
}

/// Makes the triggers of altered tables fast again. They work all the same if that fails.
async fn renew_triggers(lease: &mut Lease) {
    if let Err(error) = lease.query("select anabranch.renew()", &[]).await {
        let error = crate::errors::describe(&error);
        tracing::warn!(
            error,
            "a table was altered; run the installation again to keep writes fast"
        );
    }
}

fn column_ids(numbers: &[i16]) -> Result<Vec<ColumnId>, StoreError> {
    numbers.iter().map(|number| column_id(*number)).collect()
}

fn pg_table(row: &Row) -> Result<PgTable, StoreError> {
    let table = Table {
        id: table_id(field(row, "table_id")?)?,
        namespace: field(row, "namespace")?,
        name: field(row, "name")?,
        columns: Vec::new(),
        primary_key: column_ids(&field::<Vec<i16>>(row, "primary_key")?)?,
        foreign_keys: Vec::new(),
        delete: rule(row, "delete", DeletePolicy::of_word)?,
    };
    Ok(PgTable {
        table,
        oid: field(row, "oid")?,
        casts: BTreeMap::new(),
        types: BTreeMap::new(),
    })
}

fn add_column(tables: &mut BTreeMap<TableId, PgTable>, row: &Row) -> Result<(), StoreError> {
    let Some(table) = tables.get_mut(&table_id(field(row, "table_id")?)?) else {
        return Ok(());
    };
    let id = column_id(field(row, "attnum")?)?;
    table.casts.insert(id, field(row, "cast_type")?);
    table.types.insert(id, field(row, "type_oid")?);
    table.table.columns.push(Column {
        id,
        name: field(row, "name")?,
        kind: kind(field(row, "type_name")?, field(row, "is_enum")?),
        declared_type: field(row, "declared_type")?,
        nullable: field(row, "nullable")?,
        has_default: field(row, "has_default")?,
        bytewise_order: field(row, "bytewise_order")?,
        merge: rule(row, "merge", MergeKind::of_word)?,
    });
    Ok(())
}

fn add_foreign_key(tables: &mut BTreeMap<TableId, PgTable>, row: &Row) -> Result<(), StoreError> {
    let Some(table) = tables.get_mut(&table_id(field(row, "table_id")?)?) else {
        return Ok(());
    };
    table.table.foreign_keys.push(ForeignKey {
        columns: column_ids(&field::<Vec<i16>>(row, "columns")?)?,
        parent: table_id(field(row, "parent")?)?,
        parent_columns: column_ids(&field::<Vec<i16>>(row, "parent_columns")?)?,
        on_delete: match field::<&str>(row, "on_delete")? {
            "c" => ReferentialAction::Cascade,
            "n" => ReferentialAction::SetNull,
            "d" => ReferentialAction::SetDefault,
            _ => ReferentialAction::Refuse,
        },
        policy: rule(row, "policy", ReferencePolicy::of_word)?,
    });
    Ok(())
}

/// What a column of the built-in type `name`, or of an enum, holds.
fn kind(name: &str, is_enum: bool) -> ColumnType {
    match name {
        _ if is_enum => ColumnType::Enum,
        "bool" => ColumnType::Boolean,
        "int2" | "int4" | "int8" => ColumnType::Integer,
        "float4" | "float8" => ColumnType::Float,
        "numeric" => ColumnType::Numeric,
        "text" | "varchar" => ColumnType::Text,
        "uuid" => ColumnType::Uuid,
        "bytea" => ColumnType::Bytes,
        "date" => ColumnType::Date,
        "time" => ColumnType::Time,
        "timestamp" => ColumnType::Timestamp,
        "timestamptz" => ColumnType::TimestampTz,
        "json" | "jsonb" => ColumnType::Json,
        _ => ColumnType::Other,
    }
}

pub(crate) const TABLES_SQL: &str = "
    select t.table_id, coalesce(t.rules ->> 'delete', 'observed') as delete, c.oid, n.nspname::text as namespace, c.relname::text as name,
           t.signature is distinct from anabranch.signature(t.relid) as altered,
           (select array_agg(part.attnum order by part.number)
            from unnest(x.indkey) with ordinality as part (attnum, number)) as primary_key
    from anabranch.tables t
    join pg_class c on c.oid = t.relid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_index x on x.indrelid = c.oid and x.indisprimary
    order by t.table_id";

// A domain holds what its base type holds; only built-in types have kinds of their own.
pub(crate) const COLUMNS_SQL: &str = "
    with recursive base (type, base) as (
        select oid, oid from pg_type where typtype <> 'd'
        union all
        select d.oid, base.base from base join pg_type d
            on d.typtype = 'd' and d.typbasetype = base.type
    )
    select t.table_id, a.attnum, a.attname::text as name, a.atttypid as type_oid,
           case when b.typnamespace = 'pg_catalog'::regnamespace then b.typname::text else '' end
               as type_name,
           b.typtype = 'e' as is_enum,
           format_type(a.atttypid, a.atttypmod) as declared_type,
           format_type(a.atttypid, -1) as cast_type,
           coalesce(t.rules -> 'merge' ->> a.attnum::text, 'register') as merge,
           not a.attnotnull as nullable,
           a.atthasdef or a.attidentity <> '' as has_default,
           case when l.collname = 'default'
               then (select datcollate in ('C', 'POSIX') from pg_database
                     where datname = current_database())
               else coalesce(l.collname in ('C', 'POSIX', 'ucs_basic'), false) end
               as bytewise_order
    from anabranch.tables t
    join pg_attribute a on a.attrelid = t.relid
        and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    join base on base.type = a.atttypid
    join pg_type b on b.oid = base.base
    left join pg_collation l on l.oid = a.attcollation
    order by t.table_id, a.attnum";

pub(crate) const FOREIGN_KEYS_SQL: &str = "
    select child.table_id,
           coalesce(child.rules -> 'reference' ->> array_to_string(f.conkey, ','), 'revive')
               as policy, f.conkey as columns, parent.table_id as parent,
           f.confkey as parent_columns, f.confdeltype::text as on_delete
    from pg_constraint f
    join anabranch.tables child on child.relid = f.conrelid
    join anabranch.tables parent on parent.relid = f.confrelid
    where f.contype = 'f'
    order by child.table_id, f.conname";

const VERSION_SQL: &str = "
    with bumped as (
        update anabranch.meta set schema_version = schema_version + 1, fingerprint = md5($1)
        where fingerprint <> md5($1) returning schema_version
    )
    select coalesce((select schema_version from bumped), (select schema_version from anabranch.meta))";
