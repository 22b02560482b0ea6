-- Tests of the whole machine, the newest few: orders, how they went, and since when their end is asked for.
CREATE TABLE selftest_runs (
    run_id INTEGER PRIMARY KEY,
    document TEXT NOT NULL,
    is_open INTEGER NOT NULL,
    cancelled_at REAL
) STRICT;

-- Where the one that runs is; one row.
CREATE TABLE selftest_progress (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- How its GPUs were meanwhile, a part for each step that loaded them.
CREATE TABLE selftest_samples (
    run_id INTEGER NOT NULL REFERENCES selftest_runs (run_id) ON DELETE CASCADE,
    part INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (run_id, part)
) STRICT, WITHOUT ROWID;
