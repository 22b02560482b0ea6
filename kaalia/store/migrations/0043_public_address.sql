-- The address that instances are told, and the one before it: see store/public_address.py.
CREATE TABLE public_address (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    address TEXT NOT NULL,
    before TEXT NOT NULL,
    since REAL NOT NULL
) STRICT;
