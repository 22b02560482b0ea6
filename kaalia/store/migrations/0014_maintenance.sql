-- When the owner works on the machine, as the marketplace last signed it.
CREATE TABLE maintenance (
    start_at REAL PRIMARY KEY,
    end_at REAL NOT NULL,
    scheduled_at REAL NOT NULL,
    category TEXT NOT NULL
) STRICT;
-- The owner's wish that nothing new is admitted. obeyed_at: from then on nothing is.
CREATE TABLE cordon (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    placed_at REAL NOT NULL,
    until_at REAL,
    obeyed_at REAL
) STRICT;
