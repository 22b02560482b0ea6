-- The newest speed test, an order of one, how far one is, and why the last one failed: one row each, by name.
CREATE TABLE speed (
    name TEXT PRIMARY KEY CHECK (name IN ('result', 'order', 'progress', 'failure')),
    document TEXT NOT NULL
) STRICT;
