-- Days, cuts and closed periods in the books. The tables of 0002 stay as they are; what
-- follows is added to them in every schema of books, the live one and those of rebuilds.

ALTER FUNCTION ledger.create_projection_tables(text) RENAME TO create_book_tables;

CREATE FUNCTION ledger.create_period_tables(target text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM set_config('search_path', quote_ident(target) || ', ledger, pg_catalog', true);

    -- The open business date after each BookOpened and DayOpened; `position` is the event's.
    CREATE TABLE business_days (
        position  bigint NOT NULL,
        book_id   text   NOT NULL,
        open_date date   NOT NULL,
        CONSTRAINT business_days_pkey PRIMARY KEY (position)
    );

    -- A cut is performed (its vouchers are numbered) once every lane has passed it.
    CREATE TABLE day_cuts (
        position      bigint  NOT NULL,
        book_id       text    NOT NULL,
        cut_date      date    NOT NULL,
        open_date     date    NOT NULL,
        parked        text    NOT NULL,
        operations    bigint  NOT NULL,
        operation_ids text[]  NOT NULL,
        maker         text    NOT NULL,
        note          text    NOT NULL,
        performed     boolean NOT NULL,
        CONSTRAINT day_cuts_pkey PRIMARY KEY (position)
    );
    CREATE INDEX day_cuts_due_idx ON day_cuts (position) WHERE NOT performed;

    -- What was proposed, approved and rejected about periods, in the order of the log.
    CREATE TABLE period_changes (
        position    bigint NOT NULL,
        book_id     text   NOT NULL,
        change_id   text   NOT NULL,
        step        text   NOT NULL,
        period_date date,
        maker       text,
        checker     text,
        note        text   NOT NULL,
        CONSTRAINT period_changes_pkey PRIMARY KEY (position),
        CONSTRAINT period_changes_step CHECK
            (step IN ('close_proposed', 'reopen_proposed', 'rejected', 'closed', 'reopened')),
        CONSTRAINT period_changes_have_two_principals
            CHECK (step NOT IN ('closed', 'reopened')
                   OR (maker IS NOT NULL AND checker IS NOT NULL AND checker <> maker))
    );
    CREATE INDEX period_changes_change_idx ON period_changes (book_id, change_id);

    -- The consecutive legal number of a voucher, given at the cut: per book and year in the
    -- order (accounting date, position, ordinal). Vouchers themselves are never edited.
    CREATE TABLE voucher_numbers (
        book_id  text    NOT NULL,
        year     integer NOT NULL,
        number   bigint  NOT NULL,
        position bigint  NOT NULL,
        ordinal  integer NOT NULL,
        CONSTRAINT voucher_numbers_pkey PRIMARY KEY (book_id, year, number),
        CONSTRAINT voucher_numbers_positive CHECK (number > 0)
    );
    CREATE UNIQUE INDEX voucher_numbers_voucher_key ON voucher_numbers (position, ordinal);
    CREATE TRIGGER voucher_numbers_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON voucher_numbers
        FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

    -- Null where a voucher is dated on its business date, as nearly all are.
    ALTER TABLE vouchers ADD COLUMN business_date date;
END
$$;

CREATE FUNCTION ledger.create_projection_tables(target text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ledger.create_book_tables(target);
    PERFORM ledger.create_period_tables(target);
END
$$;

SELECT ledger.create_period_tables('projections');

-- What the log says of days opened before this migration: consumers have passed those rows.
INSERT INTO projections.business_days (position, book_id, open_date)
SELECT notification_id, fact ->> 'book_id',
       coalesce(fact ->> 'business_date', fact ->> 'open_business_date')::date
FROM (
    SELECT notification_id, convert_from(state, 'UTF8')::jsonb AS fact
    FROM ledger.stored_events
    WHERE topic IN ('ledger.recorded:BookOpened', 'ledger.recorded:DayOpened')
) opened;

-- Until now only an override was dated into another day than its operation's.
ALTER TABLE projections.vouchers DISABLE TRIGGER vouchers_append_only;
UPDATE projections.vouchers v SET business_date = o.business_date
FROM projections.outcomes o
WHERE v.rule_id = 'override' AND o.book_id = v.book_id AND o.attempt_position = v.position
  AND o.business_date <> v.accounting_date;
ALTER TABLE projections.vouchers ENABLE TRIGGER vouchers_append_only;
UPDATE projections.outcomes o
SET detail = 'dated ' || v.accounting_date || ' by the override'
FROM projections.vouchers v
WHERE v.rule_id = 'override' AND o.book_id = v.book_id AND o.attempt_position = v.position
  AND o.business_date <> v.accounting_date;
