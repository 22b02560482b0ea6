-- Images that came to this machine by a registry login, each by its reference and by its id.
CREATE TABLE private_images (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
