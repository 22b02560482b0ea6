-- Images that kaalia itself pulled, by id: only these are ever removed for want of space, the longest unused first.
CREATE TABLE pulled_images (
    image_id TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    used_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Instances that were measured to hold more than they rented, where no file system stops them.
CREATE TABLE overruns (
    contract_id INTEGER PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;
