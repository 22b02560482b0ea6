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
-- What each GPU used for each contract, in millijoules; `last_mj`: its counter at `read_at`, null while it is not the
-- contract's.
CREATE TABLE energy (
    contract_id INTEGER NOT NULL,
    gpu_uuid TEXT NOT NULL,
    total_mj INTEGER NOT NULL,
    last_mj INTEGER,
    read_at REAL NOT NULL,
    PRIMARY KEY (contract_id, gpu_uuid)
) STRICT, WITHOUT ROWID;

-- The journal takes another sum, told by lines of the edge `count`: joules. They stay on the machine. SQLite changes no
-- CHECK, so both tables are made anew with all their rows.
CREATE TABLE new_journal (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    contract_id INTEGER NOT NULL, -- of the meter `volume`: the volume's number
    generation INTEGER NOT NULL,
    meter TEXT NOT NULL CHECK (meter IN ('run', 'disk', 'volume', 'inet_up', 'inet_down', 'energy')),
    edge TEXT NOT NULL CHECK (edge IN ('start', 'end', 'count')),
    at TEXT NOT NULL,
    amount INTEGER NOT NULL,
    reason TEXT NOT NULL,
    written_at REAL NOT NULL
) STRICT;
INSERT INTO new_journal SELECT * FROM journal;

CREATE TABLE new_meters (
    contract_id INTEGER NOT NULL,
    meter TEXT NOT NULL,
    start_entry INTEGER NOT NULL REFERENCES new_journal (entry_id),
    end_entry INTEGER REFERENCES new_journal (entry_id),
    PRIMARY KEY (contract_id, meter)
) STRICT, WITHOUT ROWID;
INSERT INTO new_meters SELECT * FROM meters;

DROP TABLE meters;
DROP TABLE journal;
ALTER TABLE new_journal RENAME TO journal;
ALTER TABLE new_meters RENAME TO meters;

CREATE INDEX journal_by_contract ON journal (contract_id, meter, entry_id);
CREATE INDEX meters_open ON meters (contract_id) WHERE end_entry IS NULL;
CREATE TRIGGER journal_is_append_only BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_keeps_all BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
