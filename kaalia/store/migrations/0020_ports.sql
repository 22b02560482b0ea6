-- Which ports the outside reaches, as the newest probe found.
CREATE TABLE port_map (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- A probe that was ordered or is under way, and how far it is.
CREATE TABLE port_probe (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;

-- The address from which the marketplace sees this machine.
CREATE TABLE seen_address (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    address TEXT NOT NULL
) STRICT;
