-- When the machine could not be had, as it saw that itself. `begin_s`: the age of the boot then, by which its length is
-- measured within one boot. A row is told to the marketplace when `version` is above `told_version`.
CREATE TABLE outages (
    number INTEGER PRIMARY KEY,
    cause TEXT NOT NULL,
    begin_at REAL NOT NULL,
    end_at REAL,
    boot_id TEXT NOT NULL,
    begin_s REAL NOT NULL,
    is_rented INTEGER NOT NULL,
    detail TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    told_version INTEGER NOT NULL DEFAULT 0
) STRICT;
-- The conversation with the marketplace, and what it says of this machine's reliability; one row. `stop_boot_id`,
-- `stop_s`: the daemon was told to stop then. `pending`: an outage that is over, and nobody knows yet how long it was.
CREATE TABLE availability (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    posts INTEGER NOT NULL DEFAULT 0,
    heard_at REAL,
    reliability REAL,
    record TEXT,
    failure TEXT,
    was_reached INTEGER NOT NULL DEFAULT 0,
    stop_boot_id TEXT,
    stop_s REAL,
    pending TEXT
) STRICT;
-- What each GPU used for each contract, in millijoules; `last_mj`: its counter at `read_at`.
CREATE TABLE energy (
    contract_id INTEGER NOT NULL,
    gpu_uuid TEXT NOT NULL,
    total_mj INTEGER NOT NULL,
    last_mj INTEGER NOT NULL,
    read_at REAL NOT NULL,
    PRIMARY KEY (contract_id, gpu_uuid)
) STRICT, WITHOUT ROWID;
