-- What adds up: bytes of disk and memory, thousandths of a core. One row of each kind for an owner, given back with it.
CREATE TABLE amounts (
    kind TEXT NOT NULL CHECK (kind IN ('disk', 'cpu', 'ram')),
    owner TEXT NOT NULL CHECK (owner IN ('contract', 'volume')),
    owner_id INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    claimed_at REAL NOT NULL,
    PRIMARY KEY (kind, owner, owner_id)
) STRICT, WITHOUT ROWID;

-- Volumes that exist already. Containers that exist are found when the engine is looked at.
INSERT INTO amounts (kind, owner, owner_id, generation, amount, claimed_at)
    SELECT 'disk', 'volume', volume_id, 1, json_extract(document, '$.size_bytes'), unixepoch('now') FROM volumes
    WHERE json_extract(status, '$.state') IN ('creating', 'ready', 'removing');

-- Which processes use the GPUs, as the driver said when it was last asked; one row.
CREATE TABLE gpu_use (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;
