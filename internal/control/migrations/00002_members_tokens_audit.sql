-- +goose Up
-- Limits: 0 is none within the server's own bounds.
ALTER TABLE organizations ADD COLUMN max_message_bytes      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_publish_rate       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_message_rate       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_messages_per_month BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_subscriptions      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_sessions           BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_retained           BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN max_storage_bytes      BIGINT NOT NULL DEFAULT 0;

-- Counted here, so that nothing has to be counted by looking at every row.
ALTER TABLE organizations ADD COLUMN identities       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN audited_changes  BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN audited_tokens   BIGINT NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN audited_logins   BIGINT NOT NULL DEFAULT 0;

-- Scopes are separated by blanks. last_used_at is 0 if it never was.
ALTER TABLE api_keys ADD COLUMN scopes       TEXT   NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN last_used_at BIGINT NOT NULL DEFAULT 0;

CREATE TABLE operator_keys (
    id           TEXT   NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    hash         TEXT   NOT NULL UNIQUE,
    masked       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);

-- email_key is the e-mail address as it is compared.
CREATE TABLE members (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL,
    email         TEXT   NOT NULL,
    email_key     TEXT   NOT NULL UNIQUE,
    password_hash TEXT   NOT NULL,
    created_at    BIGINT NOT NULL
);

CREATE TABLE memberships (
    organization BIGINT NOT NULL REFERENCES organizations (number) ON DELETE CASCADE,
    member       TEXT   NOT NULL REFERENCES members (id) ON DELETE CASCADE,
    role         TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (organization, member)
);
CREATE INDEX memberships_member ON memberships (member);

CREATE TABLE member_sessions (
    hash       TEXT   NOT NULL PRIMARY KEY,
    member     TEXT   NOT NULL REFERENCES members (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX member_sessions_member ON member_sessions (member, created_at);
CREATE INDEX member_sessions_expires ON member_sessions (expires_at);

-- ends_at is the latest end of any token the identity has had.
CREATE TABLE identities (
    organization BIGINT NOT NULL REFERENCES organizations (number) ON DELETE CASCADE,
    user_name    TEXT   NOT NULL,
    provider     TEXT   NOT NULL,
    subject      TEXT   NOT NULL,
    email        TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    ends_at      BIGINT NOT NULL,
    PRIMARY KEY (organization, user_name),
    UNIQUE (organization, provider, subject)
);
CREATE INDEX identities_ends ON identities (ends_at, organization, user_name);
CREATE INDEX identities_oldest ON identities (organization, ends_at);

-- permissions are separated by blanks, topics are a list in JSON, empty if there are none. ttl is in milliseconds. revoked_at is 0 if it
-- was not.
CREATE TABLE tokens (
    organization BIGINT NOT NULL,
    id           TEXT   NOT NULL UNIQUE,
    user_name    TEXT   NOT NULL,
    rule_set     TEXT   NOT NULL,
    permissions  TEXT   NOT NULL,
    topics       TEXT   NOT NULL,
    ttl          BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    revoked_at   BIGINT NOT NULL,
    PRIMARY KEY (organization, id),
    FOREIGN KEY (organization, user_name) REFERENCES identities (organization, user_name) ON DELETE CASCADE
);
CREATE INDEX tokens_user ON tokens (organization, user_name, id);
CREATE INDEX tokens_rule_set ON tokens (organization, rule_set) WHERE rule_set <> '';
CREATE INDEX tokens_expires ON tokens (expires_at);

-- number counts the passwords of one token.
CREATE TABLE token_passwords (
    organization BIGINT NOT NULL,
    token        TEXT   NOT NULL,
    number       BIGINT NOT NULL,
    hash         TEXT   NOT NULL,
    expires_at   BIGINT NOT NULL,
    PRIMARY KEY (organization, token, number),
    FOREIGN KEY (organization, token) REFERENCES tokens (organization, id) ON DELETE CASCADE
);

-- number counts all entries of an organization, place those of a class. The detail is JSON, empty if there is none. Organization 0 is the
-- server itself, so there is no reference: what an organization has here is deleted with it by a statement.
INSERT INTO counters (name, value) VALUES ('server_entries', 0);
CREATE TABLE audit (
    organization BIGINT NOT NULL,
    number       BIGINT NOT NULL,
    class        TEXT   NOT NULL,
    place        BIGINT NOT NULL,
    at           BIGINT NOT NULL,
    actor_kind   TEXT   NOT NULL,
    actor_id     TEXT   NOT NULL,
    actor_name   TEXT   NOT NULL,
    address      TEXT   NOT NULL,
    action       TEXT   NOT NULL,
    target       TEXT   NOT NULL,
    was          TEXT   NOT NULL,
    became       TEXT   NOT NULL,
    PRIMARY KEY (organization, number)
);
CREATE UNIQUE INDEX audit_class ON audit (organization, class, place);

CREATE TABLE monthly_usage (
    organization BIGINT NOT NULL REFERENCES organizations (number) ON DELETE CASCADE,
    month        TEXT   NOT NULL,
    messages     BIGINT NOT NULL,
    deliveries   BIGINT NOT NULL,
    bytes_in     BIGINT NOT NULL,
    bytes_out    BIGINT NOT NULL,
    refused      BIGINT NOT NULL,
    PRIMARY KEY (organization, month)
);
