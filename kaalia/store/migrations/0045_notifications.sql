-- What waits to be told to the owner, and the newest of what was: see store/notifications.py.
CREATE TABLE notifications (
    number INTEGER PRIMARY KEY,
    channel TEXT NOT NULL,
    message_id TEXT NOT NULL,
    event TEXT NOT NULL,
    document TEXT NOT NULL,
    created_at REAL NOT NULL,
    done_at REAL,
    outcome TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX notifications_waiting ON notifications (channel, number) WHERE done_at IS NULL;

-- How each channel does.
CREATE TABLE notify_channels (
    channel TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    next_try_at REAL,
    failing_since REAL,
    outcome TEXT NOT NULL
) STRICT;

-- What was noticed, told or not yet: nothing is told twice.
CREATE TABLE notified (
    key TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- When the marketplace was heard of last, and the newest gap.
CREATE TABLE heard (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    at REAL NOT NULL,
    gap_since REAL,
    gap_until REAL
) STRICT;

-- How the marketplace sees this machine, and what its verification was before it changed.
CREATE TABLE standing (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL,
    previous TEXT,
    changed_at REAL NOT NULL
) STRICT;
