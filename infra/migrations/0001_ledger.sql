-- The ledger's tables: one event log, the heads that are its fold, and the registers.
-- Rule (positions): notification_id is assigned by the one writer under the commit-order
-- lock and has no gaps; the sequence behind it is never used.

CREATE SCHEMA IF NOT EXISTS ledger;

CREATE TABLE ledger.stored_events (
    originator_id      uuid   NOT NULL,
    originator_version bigint NOT NULL,
    topic              text,
    state              bytea,
    notification_id    bigserial,
    digest             bytea  NOT NULL,
    CONSTRAINT stored_events_pkey PRIMARY KEY (originator_id, originator_version)
) WITH (
    autovacuum_vacuum_threshold = 100000000,
    autovacuum_vacuum_scale_factor = 0.5,
    autovacuum_analyze_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.01
);
CREATE UNIQUE INDEX stored_events_notification_id_idx
    ON ledger.stored_events (notification_id);

-- One row: which log this is. A consumer compares it before it trusts a position.
CREATE TABLE ledger.log (
    one         boolean NOT NULL DEFAULT true,
    log_id      uuid    NOT NULL DEFAULT gen_random_uuid(),
    incarnation integer NOT NULL DEFAULT 1,
    CONSTRAINT log_pkey PRIMARY KEY (one),
    CONSTRAINT log_has_one_row CHECK (one)
);
INSERT INTO ledger.log DEFAULT VALUES;

-- One row per commit. `totals` are the book's cumulative booked operations and amounts by
-- currency after the commit: {"CNY": [count, amount]}; they are part of the sealed bytes.
CREATE TABLE ledger.seals (
    first_id  bigint NOT NULL,
    last_id   bigint NOT NULL,
    book_id   text   NOT NULL,
    booked_at text   NOT NULL,
    totals    text   NOT NULL,
    previous  bytea  NOT NULL,
    seal      bytea  NOT NULL,
    CONSTRAINT seals_pkey PRIMARY KEY (first_id),
    CONSTRAINT seals_previous_key UNIQUE (previous),
    CONSTRAINT seals_cover_rows CHECK (last_id >= first_id)
);
CREATE INDEX seals_book_idx ON ledger.seals (book_id, first_id);

CREATE TABLE ledger.books (
    book_id            text   NOT NULL,
    name               text   NOT NULL,
    open_business_date date   NOT NULL,
    closed_through     date,
    version            bigint NOT NULL,
    CONSTRAINT books_pkey PRIMARY KEY (book_id)
);

-- Heads: each row is the fold of one account's stream (ledger/account.py: evolve).
CREATE TABLE ledger.accounts (
    account_id       uuid    NOT NULL,
    book_id          text    NOT NULL,
    number           text    NOT NULL,
    owner            text    NOT NULL,
    type             text    NOT NULL,
    subject          text    NOT NULL,
    currency         text    NOT NULL,
    normal_side      text    NOT NULL,
    parent           text,
    credit_limit     bigint,
    status           text    NOT NULL,
    lost             boolean NOT NULL,
    payment_status   text    NOT NULL,
    partial_types    text[]  NOT NULL,
    partial_amount   bigint,
    reserve          bigint  NOT NULL,
    balance          bigint  NOT NULL,
    held             bigint  NOT NULL,
    frozen           bigint  NOT NULL,
    version          bigint  NOT NULL,
    business_date    date,
    previous_balance bigint  NOT NULL,
    day_debits       bigint  NOT NULL,
    day_credits      bigint  NOT NULL,
    debit_total      bigint  NOT NULL,
    credit_total     bigint  NOT NULL,
    whole_freezes    integer NOT NULL,
    holds_open       integer NOT NULL,
    freezes_open     integer NOT NULL,
    limits_set       integer NOT NULL,
    opened_at        text    NOT NULL,
    opened_by        text    NOT NULL,
    opened_date      date    NOT NULL,
    CONSTRAINT accounts_pkey PRIMARY KEY (account_id),
    CONSTRAINT accounts_number_key UNIQUE (book_id, number),
    CONSTRAINT accounts_held_not_negative CHECK (held >= 0 AND frozen >= 0 AND reserve >= 0)
) WITH (fillfactor = 70);
CREATE INDEX accounts_parent_idx ON ledger.accounts (book_id, parent) WHERE parent IS NOT NULL;
CREATE INDEX accounts_subject_idx ON ledger.accounts (book_id, subject, number);

-- Open holds only: a released or used-up hold leaves the table, its events stay.
CREATE TABLE ledger.holds (
    account_id   uuid   NOT NULL,
    hold_id      text   NOT NULL,
    amount       bigint NOT NULL,
    operation_id text   NOT NULL,
    payout       boolean NOT NULL,
    expires_at   text,
    CONSTRAINT holds_pkey PRIMARY KEY (account_id, hold_id),
    CONSTRAINT holds_amount_positive CHECK (amount > 0)
);
CREATE INDEX holds_expiry_idx ON ledger.holds (expires_at) WHERE expires_at IS NOT NULL;

-- Freezes in force, whole (amount is null) or by amount.
CREATE TABLE ledger.freezes (
    account_id   uuid   NOT NULL,
    freeze_id    text   NOT NULL,
    amount       bigint,
    authority    text   NOT NULL,
    order_number text   NOT NULL,
    reason       text   NOT NULL,
    CONSTRAINT freezes_pkey PRIMARY KEY (account_id, freeze_id)
);

CREATE TABLE ledger.limits (
    account_id     uuid   NOT NULL,
    business_type  text   NOT NULL,
    per_operation  bigint,
    per_day_amount bigint,
    per_day_count  bigint,
    used_date      date,
    used_amount    bigint NOT NULL,
    used_count     bigint NOT NULL,
    used_operation text,
    used_operation_amount bigint NOT NULL,
    CONSTRAINT limits_pkey PRIMARY KEY (account_id, business_type)
);

-- What accounting reported back. `revision` only grows, so a late result changes nothing.
CREATE TABLE ledger.accounting_statuses (
    stream_id    uuid   NOT NULL,
    book_id      text   NOT NULL,
    operation_id text   NOT NULL,
    status       text   NOT NULL,
    reason       text,
    revision     bigint NOT NULL,
    CONSTRAINT accounting_statuses_pkey PRIMARY KEY (stream_id),
    CONSTRAINT accounting_statuses_known
        CHECK (status IN ('vouchered', 'parked', 'waiting', 'non_posting'))
);

-- Principals: only the key's hash is stored.
CREATE TABLE ledger.api_keys (
    key_hash   bytea  NOT NULL,
    principal  text   NOT NULL,
    scopes     text[] NOT NULL,
    book_id    text,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (key_hash)
);

-- The database keeps the last invariant: what was written down is never edited.
CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %.% refused: rows are append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER stored_events_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.stored_events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER seals_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.seals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
