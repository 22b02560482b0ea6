-- Append-only: what was used of this machine under each contract, from when to when. Times are ISO 8601 UTC.
CREATE TABLE journal (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    contract_id INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    meter TEXT NOT NULL CHECK (meter IN ('run', 'disk')),
    edge TEXT NOT NULL CHECK (edge IN ('start', 'end')),
    at TEXT NOT NULL,
    amount INTEGER NOT NULL,
    reason TEXT NOT NULL,
    written_at REAL NOT NULL
) STRICT;
CREATE INDEX journal_by_contract ON journal (contract_id, meter, entry_id);

-- The last start of each meter, and its end: what the next line follows. Derived from the journal.
CREATE TABLE meters (
    contract_id INTEGER NOT NULL,
    meter TEXT NOT NULL,
    start_entry INTEGER NOT NULL REFERENCES journal (entry_id),
    end_entry INTEGER REFERENCES journal (entry_id),
    PRIMARY KEY (contract_id, meter)
) STRICT, WITHOUT ROWID;
CREATE INDEX meters_open ON meters (contract_id) WHERE end_entry IS NULL;

-- When the machine last saw what runs, and in which boot; one row.
CREATE TABLE proof_of_life (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    proven_at REAL NOT NULL,
    boot_id TEXT NOT NULL
) STRICT;

CREATE TRIGGER journal_is_append_only BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_keeps_all BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
