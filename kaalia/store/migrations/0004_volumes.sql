-- Rented disk space. `status` is the intent as well: creating and removing are written before anything is done.
CREATE TABLE volumes (
    volume_id INTEGER PRIMARY KEY,
    document TEXT NOT NULL,
    status TEXT,
    place TEXT
) STRICT;

-- The newest count of who has which bytes of the disk; one row.
CREATE TABLE disk_ledger (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- What the owner asked of the disk from the command line, until it is done.
CREATE TABLE disk_orders (
    kind TEXT PRIMARY KEY CHECK (kind IN ('measure', 'remove_orphans')),
    asked_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
