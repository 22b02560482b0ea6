-- Numbers that the machine gave to contracts of its own, and for whom: the newest stay, so that none is given twice.
CREATE TABLE local_contracts (
    contract_id INTEGER PRIMARY KEY,
    purpose TEXT NOT NULL,
    made_at REAL NOT NULL
) STRICT;

-- What is known of the machine's own test container; one row, see store/canary.py.
CREATE TABLE canary (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;
