-- What was raised and cleared, in the order in which it was told.
CREATE TABLE alerts (
    name TEXT NOT NULL,
    at TEXT NOT NULL,
    state TEXT NOT NULL,               -- 'raised', 'cleared'
    message TEXT NOT NULL,
    by TEXT NOT NULL,                  -- who told it
    UNIQUE (name, at, state)
);

-- A ledger of version 1 has passed the alerts over: fold the stream again.
UPDATE ledger_position SET seq = 0, replay_to = seq WHERE seq > 0;
