-- The reboots asked by then, of an intent to start: after a crash that start is credited with these and no later ones.
ALTER TABLE intents ADD COLUMN restart_count INTEGER;
CREATE INDEX intents_closed ON intents (closed_at) WHERE closed_at IS NOT NULL;
