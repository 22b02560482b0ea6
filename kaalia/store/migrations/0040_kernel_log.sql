-- How far the kernel's log was read; one row.
CREATE TABLE kernel_position (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    boot_id TEXT NOT NULL,
    number INTEGER NOT NULL
) STRICT;

-- Faults that it told: one row for the same fault of the same part in one boot. Earlier boots are kept as history.
CREATE TABLE kernel_faults (
    boot_id TEXT NOT NULL,
    code TEXT NOT NULL,
    subject TEXT NOT NULL,
    first_at REAL NOT NULL,
    last_at REAL NOT NULL,
    last_number INTEGER NOT NULL,
    count INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (boot_id, code, subject)
) STRICT, WITHOUT ROWID;
