-- Copies from this machine's instances and volumes that are under way: what is left of one after a crash is told.
CREATE TABLE copies (
    copy_id TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;
