-- What contracts' Jupyters show to browsers, as the marketplace's authority signed it; keys follow from the machine's.
CREATE TABLE certificates (
    contract_id INTEGER PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;
