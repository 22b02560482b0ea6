-- What is wrong now: each source replaces its own rows with what it found last.
CREATE TABLE conditions (
    source TEXT NOT NULL,
    code TEXT NOT NULL,
    scope TEXT NOT NULL,
    document TEXT NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY (source, code, scope)
) STRICT;
