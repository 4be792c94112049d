-- Striping is part of an account's head: over how many stripe accounts its inflows go, and how many
-- there have ever been, because an account is the sum of all of them. No account has any yet.
ALTER TABLE ledger.accounts
    ADD COLUMN stripes        integer,
    ADD COLUMN stripes_opened integer,
    ADD CONSTRAINT accounts_stripes_bound
        CHECK (stripes BETWEEN 0 AND 64 AND stripes_opened BETWEEN stripes AND 64);
