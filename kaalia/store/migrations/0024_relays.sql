-- By which relays contracts are reached, as the marketplace last signed it.
CREATE TABLE relay_links (
    name TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- What was asked of connections to relays that may still be up.
CREATE TABLE relay_tunnels (
    name TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- With which this machine logs in at relays; the private part is a file.
CREATE TABLE relay_key (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    public_key TEXT NOT NULL
) STRICT;
