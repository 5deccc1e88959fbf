-- +goose Up
-- Times are milliseconds since 1970 UTC. Booleans are written as such; SQLite keeps 0 and 1.

-- The last number that was given out. Numbers are never given out again, so there is no counting by what is left.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('organization', 0);

CREATE TABLE organizations (
    number          BIGINT  NOT NULL PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    uuid            TEXT    NOT NULL UNIQUE,
    name            TEXT    NOT NULL,
    revision        BIGINT  NOT NULL,
    disabled        BOOLEAN NOT NULL,
    max_connections BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL
);

CREATE TABLE rule_sets (
    organization BIGINT  NOT NULL REFERENCES organizations (number) ON DELETE CASCADE,
    id           TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    is_default   BOOLEAN NOT NULL,
    created_at   BIGINT  NOT NULL,
    PRIMARY KEY (organization, id),
    UNIQUE (organization, name)
);
CREATE UNIQUE INDEX rule_sets_default ON rule_sets (organization) WHERE is_default;

CREATE TABLE rules (
    organization BIGINT NOT NULL,
    rule_set     TEXT   NOT NULL,
    position     BIGINT NOT NULL,
    id           TEXT   NOT NULL,
    user_pattern TEXT   NOT NULL,
    topic        TEXT   NOT NULL,
    permission   TEXT   NOT NULL,
    effect       TEXT   NOT NULL,
    priority     BIGINT NOT NULL,
    PRIMARY KEY (organization, rule_set, position),
    UNIQUE (organization, id),
    FOREIGN KEY (organization, rule_set) REFERENCES rule_sets (organization, id) ON DELETE CASCADE
);

CREATE TABLE users (
    organization  BIGINT  NOT NULL REFERENCES organizations (number) ON DELETE CASCADE,
    name          TEXT    NOT NULL,
    display_name  TEXT    NOT NULL,
    password_hash TEXT    NOT NULL,
    disabled      BOOLEAN NOT NULL,
    rule_set      TEXT,
    created_at    BIGINT  NOT NULL,
    password_at   BIGINT  NOT NULL,
    PRIMARY KEY (organization, name),
    FOREIGN KEY (organization, rule_set) REFERENCES rule_sets (organization, id)
);
CREATE INDEX users_rule_set ON users (organization, rule_set);

CREATE TABLE api_keys (
    organization BIGINT NOT NULL REFERENCES organizations (number) ON DELETE CASCADE,
    id           TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    hash         TEXT   NOT NULL UNIQUE,
    masked       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (organization, id)
);
