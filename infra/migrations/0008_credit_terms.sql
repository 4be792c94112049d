-- The signed agreement behind a credit limit, with its first and last day, is part of an
-- account's head. Limits of before have no days in the log, so there is nothing to fill in.
ALTER TABLE ledger.accounts
    ADD COLUMN credit_agreement text,
    ADD COLUMN credit_from      date,
    ADD COLUMN credit_to        date;
