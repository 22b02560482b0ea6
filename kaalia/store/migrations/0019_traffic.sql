-- The journal takes meters of another kind: sums of bytes to and from the internet, told by lines of the edge `count`.
-- SQLite changes no CHECK, so both tables are made anew with all their rows.
CREATE TABLE new_journal (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    contract_id INTEGER NOT NULL, -- of the meter `volume`: the volume's number
    generation INTEGER NOT NULL,
    meter TEXT NOT NULL CHECK (meter IN ('run', 'disk', 'volume', 'inet_up', 'inet_down')),
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

-- What the kernel's counters said last of each contract, and the sums made of it: a `contracts.traffic.Tally`.
CREATE TABLE traffic (
    contract_id INTEGER PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;
