-- What is known of time, so that a jump of the wall clock or a reboot neither prolongs nor cuts a lease; one row.
CREATE TABLE anchor (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    at REAL NOT NULL,
    boottime_s REAL NOT NULL,
    boot_id TEXT NOT NULL,
    seen_s REAL NOT NULL,
    doubted_since_s REAL
) STRICT;
