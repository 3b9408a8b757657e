-- What Anabranch keeps in Postgres: the clocks of rows, the values of deleted rows, and which
-- transactions of replicas were merged. The user's own tables get no column, only triggers that
-- stamp what other programs write. Applied whole by the installer, as often as one likes, also over
-- what an earlier version installed: a column that a table did not always have is added by itself.
--
-- Two rules hold throughout.
-- * A value's text is what its type's output function writes, under the settings that the functions
--   below pin: the log carries the same text. concat() calls the output function; a cast to text
--   does not always (boolean, inet, char(n)).
-- * A row's key text is the text of its key column; of a composite key, the parts with '\' and ','
--   escaped by '\', joined by ','.

create schema if not exists anabranch;

-- One row. `form` is the version of this file; `schema_version` grows when a replicated table
-- changes its form, which `fingerprint` tells.
create table if not exists anabranch.meta (
    one            boolean primary key default true check (one),
    form           integer not null,
    schema_version bigint  not null default 0,
    fingerprint    text    not null default ''
);
-- Rows that were removed before this clock reading may be forgotten.
alter table anabranch.meta add column if not exists horizon bigint not null default 0;

-- The replicated tables. Numbers are never used again. The table's trigger function holds good while
-- its signature is `signature`. `rules` has what was declared otherwise than usual: how columns merge
-- (`merge`, by column number), what a delete does (`delete`), what becomes of children (`reference`, by
-- the numbers of the referring columns, joined by commas).
create table if not exists anabranch.tables (
    table_id  integer generated always as identity primary key,
    relid     oid    not null unique,
    name      text   not null,
    signature bigint not null
);
alter table anabranch.tables add column if not exists rules jsonb not null default '{}';

-- A row's clock. `clock` is what the service last packed; the columns after it are what SQL writers
-- did since. A row that nobody has touched since installation has none.
create table if not exists anabranch.clocks (
    table_id       integer not null,
    key            text collate "C" not null,
    clock          bytea,
    -- The newest clock reading in the row: every write is stamped above it.
    newest         bigint  not null,
    -- Whether the row was there before its clock: then its clock starts as the genesis clock.
    born_before    boolean not null default false,
    -- By column number: when SQL last wrote the column, NULL where it did not.
    server         bigint[],
    -- When SQL last added or updated the row, and whether SQL has deleted that addition since.
    server_live    bigint,
    server_removed boolean not null default false,
    -- Whether a SQL delete has removed everything that `clock` says is live.
    swept          boolean not null default false,
    primary key (table_id, key)
);
-- The elements of sets that SQL has removed since `clock`: pairs of a column number and an element.
alter table anabranch.clocks add column if not exists removed jsonb;

-- The values of rows that are not in their table, by column number, so that one that comes back is
-- whole.
create table if not exists anabranch.tombstones (
    table_id integer not null,
    key      text collate "C" not null,
    cells    text[] not null,
    primary key (table_id, key)
);
-- When the row was removed, or last written to since.
alter table anabranch.tombstones
    add column if not exists buried timestamptz not null default clock_timestamp();

-- What became of the replicas' transactions: merged, or refused where there is a code.
create table if not exists anabranch.marks (
    replica uuid   not null,
    seq     bigint not null,
    hash    bytea  not null,
    code    text,
    reason  text,
    primary key (replica, seq)
);

-- `held`, with `hlc` wherever `changes` has something. (In PL/pgSQL, here and below, since that keeps
-- its plans and SQL functions do not.)
create or replace function anabranch.overlay(held bigint[], changes bigint[], hlc bigint)
returns bigint[] language plpgsql immutable parallel safe as $$
begin
    if changes is null then
        return held;
    end if;
    return (
        select array_agg(case when cell.change is null then cell.held else hlc end order by number)
        from unnest(held, changes) with ordinality as cell (held, change, number));
end
$$;

-- The elements of sets, which come by column number, as pairs of that number and the element.
create or replace function anabranch.elements(sets jsonb) returns setof jsonb
language sql immutable parallel safe as $$
    select jsonb_build_array(held.key::integer, element.value)
    from jsonb_each(sets) held
    cross join lateral jsonb_array_elements(case jsonb_typeof(held.value)
        when 'array' then held.value else jsonb_build_array(held.value) end) element
$$;

-- `removed`, with the elements of `held` that `kept` lacks. Elements are told apart by their text.
create or replace function anabranch.removed(removed jsonb, held jsonb, kept jsonb) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_agg(gone.element) from (
        select element from jsonb_array_elements(removed) element
        union
        select element from anabranch.elements(held) element
        where element::text not in (select kept::text from anabranch.elements(kept) kept)
    ) gone
$$;

-- A clock reading: now.
create or replace function anabranch.hlc_now() returns bigint language sql volatile as $$
    select (extract(epoch from clock_timestamp()) * 1000)::bigint << 16
$$;

-- Changes whenever a column or the primary key of a table does.
create or replace function anabranch.signature(relation oid) returns bigint
language plpgsql stable as $$
begin
    return (
        select bit_xor(hashtextextended(a.attname, a.attnum)) from pg_catalog.pg_attribute a
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    ) # (
        select coalesce(bit_xor(hashtextextended(x.indkey::text, 0)), 0) from pg_catalog.pg_index x
        where x.indrelid = relation and x.indisprimary
    );
end
$$;

-- The queries over a statement's rows, by operation. Each yields, per row, in the order of the keys:
--   key      the row's key text
--   changes  `hlc` for every column that was written, by column number
--   fresh    whether the row has come into the table
--   dead     whether it has left the table
--   cells    if so, the texts of its columns outside the key, by column number
--   old_sets the sets it had, by column number, and
--   new_sets those it has; NULL where the table has none
-- NULL where the table has no primary key.
create or replace function anabranch.images(relation oid, hlc text) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
    with key_columns as (
        select a.attnum, part.number, count(*) over () as parts,
               format('concat(r.%I)', a.attname) as text
        from pg_index x
        cross join unnest(x.indkey) with ordinality as part (attnum, number)
        join pg_attribute a on a.attrelid = x.indrelid and a.attnum = part.attnum
        where x.indrelid = relation and x.indisprimary
    ), rules as (
        select t.rules -> 'merge' as merge from anabranch.tables t where t.relid = relation
    ), positions as (
        select number, a.attname as name,
               (select r.merge ->> number::text from rules r) is not distinct from 'set' as is_set,
               format('case when r.%1$I is distinct from null then concat(r.%1$I) end', a.attname) as old,
               format('case when n.%1$I is distinct from null then concat(n.%1$I) end', a.attname) as new
        from generate_series(1, (
            select max(attnum) from pg_attribute where attrelid = relation and not attisdropped
        )) as number
        left join pg_attribute a on a.attrelid = relation and a.attnum = number
            and not a.attisdropped and a.attgenerated = ''
            and a.attnum not in (select attnum from key_columns)
    ), expressions as (
        select
            (select format('(%s) collate "C"', string_agg(
                 case parts when 1 then text
                     else format($f$replace(replace(%s, '\', '\\'), ',', '\,')$f$, text) end,
                 $f$ || ',' || $f$ order by number)) from key_columns) as key,
            format('array[%s]::text[]',
                string_agg(case when name is null then 'null' else old end, ', ' order by number))
                as cells,
            format('array[%s]::bigint[]',
                string_agg(case when name is null then 'null' else hlc end, ', ' order by number))
                as all_columns,
            format('array[%s]::bigint[]',
                string_agg(case when name is null then 'null'
                    else format('case when %s is distinct from %s then %s end', old, new, hlc) end,
                    ', ' order by number))
                as changed_columns,
            coalesce('jsonb_build_object(' || string_agg(
                format($f$%L, coalesce(r.%I::jsonb, '[]')$f$, number, name), ', ')
                filter (where is_set and name is not null) || ')', 'null::jsonb')
                as old_sets,
            coalesce('jsonb_build_object(' || string_agg(
                format($f$%L, coalesce(n.%I::jsonb, '[]')$f$, number, name), ', ')
                filter (where is_set and name is not null) || ')', 'null::jsonb')
                as new_sets
        from positions
    )
    select jsonb_build_object(
        'INSERT', format($q$
            select %s as key, %s as changes, true as fresh, false as dead, null::text[] as cells,
                   null::jsonb as old_sets, %s as new_sets
            from new_rows r order by 1 $q$, key, all_columns, old_sets),
        'UPDATE', format($q$
            select coalesce(r."anabranch.key", n."anabranch.key") as key,
                   case when r."anabranch.key" is null then %2$s
                        when n."anabranch.key" is not null then %3$s end as changes,
                   r."anabranch.key" is null as fresh, n."anabranch.key" is null as dead,
                   case when n."anabranch.key" is null then %4$s end as cells,
                   case when r."anabranch.key" is not null then %5$s end as old_sets,
                   case when n."anabranch.key" is not null then %6$s end as new_sets
            from (select %1$s as "anabranch.key", r.* from old_rows r) r
            full join (select %1$s as "anabranch.key", r.* from new_rows r) n
                on n."anabranch.key" = r."anabranch.key"
            order by 1 $q$, key, all_columns, changed_columns, cells, old_sets, new_sets),
        'DELETE', format($q$
            select %s as key, null::bigint[] as changes, false as fresh, true as dead, %s as cells,
                   null::jsonb as old_sets, null::jsonb as new_sets
            from old_rows r order by 1 $q$, key, cells),
        'TRUNCATE', format($q$
            select %s as key, null::bigint[] as changes, false as fresh, true as dead, %s as cells,
                   null::jsonb as old_sets, null::jsonb as new_sets
            from %s r order by 1 $q$, key, cells, relation::regclass))
    from expressions where key is not null
$$;

-- Makes a table's trigger function. It stamps what a statement of another program did. No merge
-- logic: it notes, per row, which columns were written, whether the row was added or deleted, and which
-- elements of sets are gone, always above everything in the row. An update that changes nothing still touches the clock row, so
-- that a row in the log without one means that the trigger was bypassed. To the engine a row with
-- another key is another row: a changed key is a delete and an insert.
--
-- One function per table, all alike, so that Postgres keeps the plans of the queries over the rows.
-- Where the table was altered since, the function makes its queries anew at each statement.
create or replace function anabranch.prepare_trigger(relation oid, number integer) returns void
language plpgsql as $$
declare
    images constant jsonb := anabranch.images(relation, 'now_hlc');
    -- Whether an update says that the row is there.
    updates_add constant boolean := (
        select (t.rules ->> 'delete') is distinct from 'wins_over_update'
        from anabranch.tables t where t.relid = relation);
begin
    execute format($create$
        create or replace function anabranch.%I() returns trigger
        language plpgsql security definer
        set search_path = pg_catalog, pg_temp
        set standard_conforming_strings = on
        set timezone = 'UTC' set datestyle = 'ISO, DMY' set intervalstyle = 'iso_8601'
        set extra_float_digits = 1 set bytea_output = 'hex'
        as %L $create$, 'stamp_' || number, format($body$
#variable_conflict use_variable
declare
    this    constant integer := %s;
    now_hlc constant bigint := anabranch.hlc_now();
    altered constant boolean := anabranch.signature(tg_relid) is distinct from %s;
    image   text;
    images  refcursor;
    touched record;
    written boolean;
    buried  boolean;
    old_sets jsonb;
begin
    if altered then
        image := anabranch.images(tg_relid, now_hlc || '::bigint') ->> tg_op;
        if image is null then
            return null;
        end if;
        open images for execute image;
    elsif tg_op = 'INSERT' then
        open images for %s;
    elsif tg_op = 'UPDATE' then
        open images for %s;
    elsif tg_op = 'DELETE' then
        open images for %s;
    else
        open images for %s;
    end if;

    loop
        fetch images into touched;
        exit when not found;
        written := coalesce(array_remove(touched.changes, null) <> '{}', false);
        insert into anabranch.clocks as c
            (table_id, key, newest, born_before, server, server_live, swept)
        values (this, touched.key, case when written then now_hlc else 0 end, not touched.fresh,
                touched.changes, case when written and (touched.fresh or %s) then now_hlc end,
                touched.dead)
        on conflict (table_id, key) do update set
            newest = case when excluded.newest = 0 then c.newest
                else greatest(excluded.newest, c.newest + 1) end,
            server = case when c.server is null and excluded.newest > c.newest
                then excluded.server
                else anabranch.overlay(
                    c.server, excluded.server, greatest(excluded.newest, c.newest + 1)) end,
            server_live = case when excluded.server_live is null then c.server_live
                else greatest(excluded.newest, c.newest + 1) end,
            server_removed = case when excluded.server_live is not null then false
                else c.server_removed or excluded.swept end,
            swept = c.swept or excluded.swept
        returning c.clock is not null or c.swept into buried;
        if touched.new_sets is not null then
            old_sets := touched.old_sets;
            if touched.fresh and buried then
                select jsonb_object_agg(s.key, coalesce(t.cells[s.key::integer], '[]')::jsonb)
                into old_sets
                from anabranch.tombstones t cross join jsonb_each(touched.new_sets) s
                where t.table_id = this and t.key = touched.key;
            end if;
            if old_sets::text <> touched.new_sets::text then
                update anabranch.clocks c
                set removed = anabranch.removed(c.removed, old_sets, touched.new_sets)
                where c.table_id = this and c.key = touched.key;
            end if;
        end if;
        if touched.dead then
            insert into anabranch.tombstones (table_id, key, cells)
            values (this, touched.key, touched.cells)
            on conflict (table_id, key) do update
                set cells = excluded.cells, buried = excluded.buried;
        elsif touched.fresh and buried then
            delete from anabranch.tombstones t where t.table_id = this and t.key = touched.key;
        end if;
    end loop;
    close images;
    return null;
end
$body$, number, anabranch.signature(relation),
        images ->> 'INSERT', images ->> 'UPDATE', images ->> 'DELETE', images ->> 'TRUNCATE',
        case when updates_add then 'true' else 'false' end));
end
$$;

-- Makes the trigger functions of tables that were altered anew.
create or replace function anabranch.renew() returns void language plpgsql as $$
begin
    perform anabranch.prepare_trigger(t.relid, t.table_id)
    from anabranch.tables t
    join pg_index x on x.indrelid = t.relid and x.indisprimary
    where t.signature <> anabranch.signature(t.relid);
    update anabranch.tables t set signature = anabranch.signature(t.relid)
    where t.signature <> anabranch.signature(t.relid);
end
$$;

-- Takes a table under replication: gives it its number, its trigger function and its triggers. The
-- service's own merge does not fire them, but what the application's triggers and foreign keys do in
-- the wake of a merge does.
create or replace function anabranch.attach(relation regclass) returns integer
language plpgsql as $$
declare
    foreign_write constant text := $w$(current_setting('anabranch.applying', true)
        is distinct from '1' or pg_trigger_depth() > 0)$w$;
    this integer;
    kind record;
begin
    insert into anabranch.tables as t (relid, name, signature)
    values (relation, relation::text, anabranch.signature(relation))
    on conflict (relid) do update set name = excluded.name, signature = excluded.signature
    returning t.table_id into this;
    perform anabranch.prepare_trigger(relation, this);
    for kind in select * from (values
        ('insert', 'after insert', 'referencing new table as new_rows'),
        ('update', 'after update', 'referencing old table as old_rows new table as new_rows'),
        ('delete', 'after delete', 'referencing old table as old_rows'),
        ('truncate', 'before truncate', '')) as kind (name, moment, rows)
    loop
        execute format('create or replace trigger %I %s on %s %s for each statement when %s '
            'execute function anabranch.%I()', 'anabranch_' || kind.name, kind.moment, relation,
            kind.rows, foreign_write, 'stamp_' || this);
    end loop;
    return this;
end
$$;

insert into anabranch.meta (form) values (1) on conflict (one) do update set form = excluded.form;
