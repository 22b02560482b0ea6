CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- The marketplace this machine is enrolled with; one row. The private key is a file, not a row.
CREATE TABLE enrolment (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    url TEXT NOT NULL,
    machine_id INTEGER NOT NULL,
    marketplace_keys TEXT NOT NULL,
    enrolled_at REAL NOT NULL
) STRICT;

-- The newest accepted snapshot, exactly as it was signed; one row.
CREATE TABLE snapshot (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    not_after REAL NOT NULL,
    envelope TEXT NOT NULL,
    received_at REAL NOT NULL
) STRICT;

CREATE TABLE contracts (
    contract_id INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    document TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('marketplace', 'local')),
    accepted_at REAL NOT NULL,
    missing_since REAL,
    missing_revisions INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE workloads (
    contract_id INTEGER PRIMARY KEY,
    document TEXT NOT NULL,
    updated_at REAL NOT NULL
) STRICT;

-- At most one owner of a GPU, a host port or a subnet, by primary key.
CREATE TABLE claims (
    kind TEXT NOT NULL CHECK (kind IN ('gpu', 'port/tcp', 'port/udp', 'subnet')),
    key TEXT NOT NULL,
    contract_id INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    claimed_at REAL NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_by_contract ON claims (contract_id);

CREATE TABLE intents (
    intent_id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    contract_id INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    opened_at REAL NOT NULL,
    closed_at REAL,
    outcome TEXT
) STRICT;
CREATE INDEX intents_open ON intents (contract_id) WHERE closed_at IS NULL;

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE machine (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    report TEXT NOT NULL,
    digest TEXT NOT NULL,
    collected_at REAL NOT NULL
) STRICT;

CREATE TABLE listing (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- One-shot requests of the marketplace: a row is written before the work, so that it is done at most once.
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('new', 'taken', 'done')),
    received_at REAL NOT NULL
) STRICT;
