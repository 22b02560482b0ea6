-- What kaalia set on GPUs, so that it is put back when the policy ends: see store/power.py.
CREATE TABLE power_marks (
    uuid TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL,
    before_w REAL,
    power_w REAL,
    clock_max_mhz INTEGER
) STRICT;
