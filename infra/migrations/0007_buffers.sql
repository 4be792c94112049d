-- Buffered posting: the agreement is part of an account's head; a row of `accepted` is there
-- while something waits on a buffer account, so the table is as long as there are hot accounts.
ALTER TABLE ledger.accounts
    ADD COLUMN buffer_ms          integer,
    ADD COLUMN buffer_directions  text,
    ADD COLUMN buffer_agreement   text,
    ADD COLUMN buffer_from        date,
    ADD COLUMN buffer_to          date,
    ADD COLUMN buffer_entries_max bigint,
    ADD CONSTRAINT accounts_buffer_bound CHECK (buffer_ms BETWEEN 0 AND 60000),
    ADD CONSTRAINT accounts_buffer_directions CHECK (buffer_directions IN ('in', 'both'));

CREATE TABLE ledger.accepted (
    account_id     uuid   NOT NULL,
    accepted_since text   NOT NULL,
    entries        bigint NOT NULL,
    debits         bigint NOT NULL,
    credits        bigint NOT NULL,
    CONSTRAINT accepted_pkey PRIMARY KEY (account_id),
    CONSTRAINT accepted_not_negative CHECK (entries > 0 AND debits >= 0 AND credits >= 0)
) WITH (fillfactor = 50);
