-- What was wrong and is over: the newest only, see store/conditions.py.
CREATE TABLE past_conditions (
    number INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    document TEXT NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL
) STRICT;
