-- What the machine was made of when it was looked at last, and how that changed: see contracts/hardware.py.
CREATE TABLE hardware (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    document TEXT NOT NULL
) STRICT;
