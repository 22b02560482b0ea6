-- Of the test that wants it measured as one of its steps; empty: the owner does.
ALTER TABLE measurement_orders ADD COLUMN purpose TEXT NOT NULL DEFAULT '';
