-- How the GPUs are: the newest reading of the driver and the bus; one row.
CREATE TABLE gpu_reading (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- The GPUs that are or were there, see model/gpu_health.py.
CREATE TABLE known_gpus (
    uuid TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;
