-- The ledger, version 1. Later versions are the numbered files in migrations/, applied in their
-- order; user_version is the number of the last one. Everything in here can be folded again from
-- the stream of events, as far as that reaches back.

-- One row for each request. The first columns are those of the strategy (5.4), in its order; the
-- others follow. Instants are UTC text of one width (2026-03-02T09:15:00.120000Z), so they sort.
CREATE TABLE multimodal_generations (
    id TEXT NOT NULL,                  -- the request's id; unique with requester_key
    request_type TEXT NOT NULL,        -- 'image'
    status TEXT NOT NULL,              -- 'queued', 'processing', 'completed', 'failed', 'cancelled'
    priority TEXT,                     -- 'CRITICAL', 'HIGH', 'MEDIUM', 'LOW'

    prompt TEXT,
    requester_agent TEXT,              -- 'L1.01', 'L2.05.03', 'user'
    quality_tier TEXT,                 -- 'draft', 'standard', 'high', 'premium'

    model_used TEXT,                   -- 'sdxl-1.0', 'sd-1.5', 'sketch', a provider's own name
    generation_time_sec REAL,
    vram_used_gb REAL,                 -- GiB, measured; null where nothing was measured
    cost_usd REAL,                     -- all tries together; 0 for local

    output_path TEXT,
    output_url TEXT,                   -- below the gateway: /api/multimodal/assets/...
    file_size_bytes INTEGER,

    created_at TEXT,                   -- when the server stored the request
    started_at TEXT,                   -- of the attempt that counts
    completed_at TEXT,                 -- null unless completed

    error_message TEXT,
    retry_count INTEGER DEFAULT 0,     -- attempts - 1, never below 0

    requester_key TEXT NOT NULL,       -- the agent as a token in subjects: 'L2-05-03'
    style TEXT,
    request_seq INTEGER NOT NULL,      -- sequence of the stored request
    requested_at TEXT,                 -- as created_at; null where its first link is not kept
    replay_of TEXT,
    n INTEGER NOT NULL,                -- place of the last link in its chain
    kind TEXT NOT NULL,                -- of the last link
    message TEXT NOT NULL,             -- of the last link
    attempts INTEGER NOT NULL,
    engine TEXT,
    workflow TEXT,
    reason TEXT,                       -- why this engine, why given back, who cancelled it
    worker TEXT,
    queue_time_sec REAL,
    ended_at TEXT,                     -- however it ended
    downgraded INTEGER NOT NULL,
    seed INTEGER,
    sha256 TEXT,                       -- of the first picture
    thumbnail_url TEXT,
    output_count INTEGER NOT NULL,
    outputs TEXT NOT NULL,             -- JSON: all pictures
    error_code TEXT,
    dead INTEGER NOT NULL,             -- its tries were spent: a dead letter
    pinned INTEGER NOT NULL,
    rating INTEGER,                    -- 1 to 5
    dismissed INTEGER NOT NULL,        -- taken off the list of dead letters
    pruned_at TEXT,                    -- when its files were deleted
    PRIMARY KEY (requester_key, id)
);

CREATE INDEX idx_status ON multimodal_generations(status);
CREATE INDEX idx_created_at ON multimodal_generations(created_at, requester_key, id);
CREATE INDEX idx_requester ON multimodal_generations(requester_agent);

-- How far the stream is folded into the tables above: changed in the same transaction as they are.
CREATE TABLE ledger_position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    created TEXT NOT NULL,             -- when the stream was made; another one is folded from 1
    seq INTEGER NOT NULL,              -- the last message that is folded
    stored_at TEXT NOT NULL,           -- when the server stored that message
    replay_to INTEGER NOT NULL         -- up to here a replay shows only as a whole; 0: none
);

INSERT INTO ledger_position VALUES (1, '', 0, '', 0);
