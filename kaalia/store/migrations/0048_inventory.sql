-- What stays of the machine, as it was last read; one row.
CREATE TABLE inventory (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- The newest measurement of each name and subject; and what the owner wants measured.
CREATE TABLE measurements (
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (name, subject)
) STRICT, WITHOUT ROWID;
CREATE TABLE measurement_orders (
    bench TEXT PRIMARY KEY,
    ordered_at REAL NOT NULL,
    force INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
