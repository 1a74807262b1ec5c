-- Times are milliseconds since 1970; lists and details are JSON. What SQLite and Postgres both read.

CREATE TABLE users (
    id            TEXT   PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE,
    role          TEXT   NOT NULL,
    -- PHC string of argon2id.
    password_hash TEXT   NOT NULL,
    disabled      BIGINT NOT NULL,
    created_ms    BIGINT NOT NULL
);

-- A session or token is found by the HMAC of what its owner has; the thing itself is nowhere.
CREATE TABLE sessions (
    hash       TEXT   PRIMARY KEY,
    user_id    TEXT   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);

CREATE TABLE tokens (
    id           TEXT   PRIMARY KEY,
    hash         TEXT   NOT NULL UNIQUE,
    user_id      TEXT   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name         TEXT   NOT NULL,
    role         TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL,
    UNIQUE (user_id, name)
);

CREATE TABLE clusters (
    id          TEXT   PRIMARY KEY,
    name        TEXT   NOT NULL UNIQUE,
    description TEXT   NOT NULL,
    is_default  BIGINT NOT NULL,
    -- {"cidrs": [], "hostnames": [], "idcs": [], "locations": []}
    scope       TEXT   NOT NULL,
    created_ms  BIGINT NOT NULL
);

CREATE TABLE audit (
    id     TEXT   PRIMARY KEY,
    at_ms  BIGINT NOT NULL,
    actor  TEXT   NOT NULL,
    action TEXT   NOT NULL,
    object TEXT   NOT NULL,
    detail TEXT   NOT NULL
);
CREATE INDEX audit_by_time ON audit (at_ms);

-- One row a key: what the manager makes once for itself.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
