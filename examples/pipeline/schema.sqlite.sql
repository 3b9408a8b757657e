-- The example workspace of schema.sql for a service that replicates one SQLite file: the same tables and
-- rows. SQLite keeps the types' names, which say how columns compare in a shape's condition. Three
-- things differ: ids have no default, the status is checked where Postgres has an enum, and money is text,
-- since SQLite would make it a floating-point number.

create table teams (
    id uuid primary key not null,
    name text not null unique,
    seats integer not null default 5 check (seats > 0),
    created_at timestamptz not null default (strftime('%Y-%m-%d %H:%M:%f+00', 'now'))
);

create table users (
    id uuid primary key not null,
    email text not null unique,
    name text not null,
    active boolean not null default true,
    settings json not null default '{}'
);

create table team_members (
    team_id uuid not null references teams on delete cascade,
    user_id uuid not null references users on delete cascade,
    role text not null default 'editor' check (role in ('owner', 'editor', 'viewer')),
    joined_at timestamptz not null default (strftime('%Y-%m-%d %H:%M:%f+00', 'now')),
    primary key (team_id, user_id)
);

create table pipelines (
    id uuid primary key not null,
    team_id uuid not null references teams on delete cascade,
    owner_id uuid references users on delete set null,
    name text not null,
    description text not null default '',
    status text not null default 'draft' check (status in ('draft', 'review', 'live', 'archived')),
    monthly_budget text not null default '0.00' check (cast(monthly_budget as real) >= 0),
    updated_at timestamptz not null default (strftime('%Y-%m-%d %H:%M:%f+00', 'now')),
    unique (team_id, name)
);

create table steps (
    id uuid primary key not null,
    pipeline_id uuid not null references pipelines on delete cascade,
    name text not null,
    kind text not null,
    config json not null default '{}',
    position integer not null default 0,
    enabled boolean not null default true,
    cost_per_run text
);
create index steps_pipeline_id on steps (pipeline_id);

create table connections (
    id uuid primary key not null,
    pipeline_id uuid not null references pipelines on delete cascade,
    from_step_id uuid not null references steps on delete cascade,
    to_step_id uuid not null references steps on delete cascade,
    label text,
    check (from_step_id <> to_step_id)
);
create index connections_pipeline_id on connections (pipeline_id);
create index connections_from_step_id on connections (from_step_id);
create index connections_to_step_id on connections (to_step_id);

create table comments (
    id uuid primary key not null,
    pipeline_id uuid not null references pipelines on delete cascade,
    step_id uuid not null references steps on delete cascade,
    author_id uuid references users on delete set null,
    body text not null,
    resolved boolean not null default false,
    created_at timestamptz not null default (strftime('%Y-%m-%d %H:%M:%f+00', 'now'))
);
create index comments_pipeline_id on comments (pipeline_id);
create index comments_step_id on comments (step_id);

create table pipeline_versions (
    id uuid primary key not null,
    pipeline_id uuid not null references pipelines on delete cascade,
    author_id uuid references users on delete set null,
    number integer not null check (number > 0),
    note text,
    content json not null,
    created_at timestamptz not null default (strftime('%Y-%m-%d %H:%M:%f+00', 'now'))
);
create index pipeline_versions_pipeline_id on pipeline_versions (pipeline_id);

insert into teams (id, name, seats, created_at) values
    ('10000000-0000-4000-8000-000000000001', 'Delta', 5, '2026-01-05 09:00:00+00'),
    ('10000000-0000-4000-8000-000000000002', 'Estuary', 3, '2026-02-16 13:30:00+00');

insert into users (id, email, name, active, settings) values
    ('20000000-0000-4000-8000-000000000001', 'ada@delta.example', 'Ada Lindqvist', true, '{"theme": "dark", "grid": 8}'),
    ('20000000-0000-4000-8000-000000000002', 'ben@delta.example', 'Ben Okafor', true, '{"theme": "light"}'),
    ('20000000-0000-4000-8000-000000000003', 'chloe@estuary.example', 'Chloé Martin', true, '{}');

insert into team_members (team_id, user_id, role, joined_at) values
    ('10000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001', 'owner', '2026-01-05 09:00:00+00'),
    ('10000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000002', 'editor', '2026-01-06 10:15:00+00'),
    ('10000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000003', 'owner', '2026-02-16 13:30:00+00'),
    ('10000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000002', 'viewer', '2026-03-01 08:00:00+00');

insert into pipelines (id, team_id, owner_id, name, description, status, monthly_budget, updated_at) values
    ('30000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001',
        'Orders to warehouse', 'Nightly load of the shop''s orders', 'live', '420.00', '2026-09-01 07:45:12.345678+00'),
    ('30000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000003',
        'Tide gauges', 'Sensor readings, cleaned and averaged', 'draft', '19.90', '2026-09-14 16:20:00+00');

insert into steps (id, pipeline_id, name, kind, config, position, enabled, cost_per_run) values
    ('40000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000001',
        'Read orders', 'source', '{"table": "orders", "since": "yesterday"}', 1, true, '0.40'),
    ('40000000-0000-4000-8000-000000000002', '30000000-0000-4000-8000-000000000001',
        'Drop test customers', 'filter', '{"where": "not is_test"}', 2, true, '0.05'),
    ('40000000-0000-4000-8000-000000000003', '30000000-0000-4000-8000-000000000001',
        'Convert to EUR', 'map', '{"rates": {"USD": 0.92, "GBP": 1.17}, "round": 2}', 3, false, null),
    ('40000000-0000-4000-8000-000000000004', '30000000-0000-4000-8000-000000000001',
        'Write warehouse', 'sink', '{"table": "dw.orders", "mode": "append"}', 4, true, '1.25'),
    ('40000000-0000-4000-8000-000000000005', '30000000-0000-4000-8000-000000000002',
        'Read gauges', 'source', '{"topic": "gauges/+/level"}', 1, true, '0.01'),
    ('40000000-0000-4000-8000-000000000006', '30000000-0000-4000-8000-000000000002',
        'Average by hour', 'window', '{"minutes": 60, "by": ["gauge"]}', 2, true, '0.02');

insert into connections (id, pipeline_id, from_step_id, to_step_id, label) values
    ('50000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000001',
        '40000000-0000-4000-8000-000000000001', '40000000-0000-4000-8000-000000000002', null),
    ('50000000-0000-4000-8000-000000000002', '30000000-0000-4000-8000-000000000001',
        '40000000-0000-4000-8000-000000000002', '40000000-0000-4000-8000-000000000003', 'kept'),
    ('50000000-0000-4000-8000-000000000003', '30000000-0000-4000-8000-000000000001',
        '40000000-0000-4000-8000-000000000003', '40000000-0000-4000-8000-000000000004', 'in EUR'),
    ('50000000-0000-4000-8000-000000000004', '30000000-0000-4000-8000-000000000002',
        '40000000-0000-4000-8000-000000000005', '40000000-0000-4000-8000-000000000006', null);

insert into comments (id, pipeline_id, step_id, author_id, body, resolved, created_at) values
    ('60000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000001',
        '40000000-0000-4000-8000-000000000003', '20000000-0000-4000-8000-000000000002',
        'Rates should come from the ECB table, shouldn''t they?', false, '2026-09-02 09:12:00+00'),
    ('60000000-0000-4000-8000-000000000002', '30000000-0000-4000-8000-000000000001',
        '40000000-0000-4000-8000-000000000004', '20000000-0000-4000-8000-000000000001',
        'Append only: late orders arrive twice', true, '2026-09-03 14:40:30.5+00'),
    ('60000000-0000-4000-8000-000000000003', '30000000-0000-4000-8000-000000000002',
        '40000000-0000-4000-8000-000000000006', '20000000-0000-4000-8000-000000000003',
        'An hour hides the surge; try 15 minutes', false, '2026-09-14 16:25:00+00');

insert into pipeline_versions (id, pipeline_id, author_id, number, note, content, created_at) values
    ('70000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001',
        1, 'First load', '{"steps": ["Read orders", "Write warehouse"]}', '2026-08-20 11:00:00+00'),
    ('70000000-0000-4000-8000-000000000002', '30000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000002',
        2, null, '{"steps": ["Read orders", "Drop test customers", "Convert to EUR", "Write warehouse"]}', '2026-09-01 07:45:00+00'),
    ('70000000-0000-4000-8000-000000000003', '30000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000003',
        1, 'Sketch', '{"steps": ["Read gauges", "Average by hour"]}', '2026-09-14 16:20:00+00');
