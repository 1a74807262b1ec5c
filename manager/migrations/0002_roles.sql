-- Schedulers and nodes that have joined. `id` is scheduler:ADDRESS or proxy:HOST.
CREATE TABLE instances (
    id              TEXT   PRIMARY KEY,
    cluster_id      TEXT   NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    -- Why it is in this cluster, in words.
    reason          TEXT   NOT NULL,
    role            TEXT   NOT NULL,
    host            TEXT   NOT NULL,
    address         TEXT   NOT NULL,
    idc             TEXT   NOT NULL,
    location        TEXT   NOT NULL,
    build           TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    -- The version that it runs, 0 for its own file alone; the one that it refused, 0 for none, and why.
    running         BIGINT NOT NULL,
    refused         BIGINT NOT NULL,
    refused_reason  TEXT   NOT NULL,
    -- The life of the manager that it has a stream to; empty without one.
    manager         TEXT   NOT NULL,
    joined_ms       BIGINT NOT NULL,
    seen_ms         BIGINT NOT NULL
);
CREATE INDEX instances_by_cluster ON instances (cluster_id, id);
CREATE INDEX instances_by_role ON instances (role, seen_ms);
CREATE INDEX instances_by_manager ON instances (manager);

-- Versions of a cluster's dynamic configuration, from 1.
CREATE TABLE configurations (
    cluster_id TEXT   NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    version    BIGINT NOT NULL,
    author     TEXT   NOT NULL,
    comment    TEXT   NOT NULL,
    document   TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (cluster_id, version)
);

-- What lets schedulers and nodes join that show no certificate, known by its HMAC. `cluster_id` is empty for a token of any cluster.
CREATE TABLE join_tokens (
    id         TEXT   PRIMARY KEY,
    hash       TEXT   NOT NULL UNIQUE,
    name       TEXT   NOT NULL UNIQUE,
    cluster_id TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    -- 0 for never.
    expires_ms BIGINT NOT NULL
);
