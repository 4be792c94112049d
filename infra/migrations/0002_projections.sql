-- The books made from the log, and the positions that say how far they have come.
-- `ledger.create_projection_tables` is the one definition: the live schema `projections` and
-- the shadow of a rebuild are both made by it. Rule (rebuild): no column that is compared
-- comes from a clock or a sequence; the others are named in projections/tables.py.

-- A voucher's lines enter in one statement; they balance per currency or none is stored.
CREATE FUNCTION ledger.refuse_unbalanced_lines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    guilty record;
BEGIN
    SELECT position, ordinal, currency INTO guilty FROM fresh
     WHERE NOT off_balance
     GROUP BY position, ordinal, currency
    HAVING sum(CASE side WHEN 'debit' THEN amount_minor::numeric ELSE -amount_minor END) <> 0
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'voucher %/% does not balance in %',
            guilty.position, guilty.ordinal, guilty.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'voucher_lines_balance';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION ledger.create_projection_tables(target text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    EXECUTE format('CREATE SCHEMA %I', target);
    PERFORM set_config('search_path', quote_ident(target) || ', ledger, pg_catalog', true);

    -- How far each lane (log bus: 0; Kafka: the partition) has come. `incarnation` is raised
    -- by the swap of a rebuild: a consumer that remembers another one reads everything again.
    CREATE TABLE positions (
        lane            integer     NOT NULL,
        log_id          uuid        NOT NULL,
        log_incarnation integer     NOT NULL,
        position        bigint      NOT NULL,
        incarnation     integer     NOT NULL,
        moved_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
        stopped         text,
        CONSTRAINT positions_pkey PRIMARY KEY (lane),
        CONSTRAINT positions_not_negative CHECK (position >= 0)
    );

    -- Accounting decisions as the consumers met them; `position` is the decision's. An order
    -- is performed once every lane has passed it, so the outcome is the log's, not the lanes'.
    CREATE TABLE rulesets (
        position       bigint NOT NULL,
        book_id        text   NOT NULL,
        ruleset_hash   text   NOT NULL,
        label          text   NOT NULL,
        effective_from text   NOT NULL,
        maker          text   NOT NULL,
        document       text   NOT NULL,
        CONSTRAINT rulesets_pkey PRIMARY KEY (position)
    );

    CREATE TABLE repair_orders (
        position      bigint  NOT NULL,
        kind          text    NOT NULL,
        book_id       text    NOT NULL,
        operation_ids text[]  NOT NULL,
        ruleset_hash  text,
        maker         text    NOT NULL,
        checker       text,
        note          text    NOT NULL,
        given         text,
        performed     boolean NOT NULL,
        CONSTRAINT repair_orders_pkey PRIMARY KEY (position),
        CONSTRAINT repair_orders_kind CHECK (kind IN ('retry', 'override')),
        CONSTRAINT repair_orders_override_has_two_principals
            CHECK (kind <> 'override' OR (checker IS NOT NULL AND checker <> maker))
    );
    CREATE INDEX repair_orders_due_idx ON repair_orders (position) WHERE NOT performed;

    CREATE TABLE set_asides (
        position   bigint  NOT NULL,
        topic      text    NOT NULL,
        partition  integer NOT NULL,
        at_offset  bigint  NOT NULL,
        raw        bytea   NOT NULL,
        reason     text    NOT NULL,
        maker      text    NOT NULL,
        CONSTRAINT set_asides_pkey PRIMARY KEY (position)
    );

    -- One row per published operation: claimed first, so that every effect happens once.
    -- `position` is the operation's; `attempt_position` the position at which its present
    -- outcome was decided (its own, its original's repair, or its own repair order's).
    CREATE TABLE outcomes (
        book_id          text   NOT NULL,
        operation_id     text   NOT NULL,
        position         bigint NOT NULL,
        business_type    text   NOT NULL,
        business_date    date   NOT NULL,
        status           text   NOT NULL,
        reason           text,
        detail           text,
        rule_id          text,
        ruleset_position bigint,
        attempt_position bigint NOT NULL,
        depends_on       text,
        waits_for        text,
        amounts          jsonb  NOT NULL,
        CONSTRAINT outcomes_pkey PRIMARY KEY (book_id, operation_id),
        CONSTRAINT outcomes_status_known
            CHECK (status IN ('vouchered', 'parked', 'waiting', 'non_posting')),
        CONSTRAINT outcomes_parked_has_reason CHECK (status <> 'parked' OR reason IS NOT NULL),
        CONSTRAINT outcomes_waiting_names_original
            CHECK ((status = 'waiting') = (waits_for IS NOT NULL))
    );
    CREATE UNIQUE INDEX outcomes_position_key ON outcomes (position);
    CREATE INDEX outcomes_open_idx ON outcomes (book_id, position)
        WHERE status IN ('parked', 'waiting');
    CREATE INDEX outcomes_waiting_idx ON outcomes (book_id, waits_for) WHERE status = 'waiting';

    -- Counts and gross amounts of the outcomes per lane; summed when read.
    CREATE TABLE outcome_totals (
        book_id      text    NOT NULL,
        status       text    NOT NULL,
        currency     text    NOT NULL,
        lane         integer NOT NULL,
        count        bigint  NOT NULL,
        amount_minor numeric NOT NULL,
        CONSTRAINT outcome_totals_pkey PRIMARY KEY (book_id, status, currency, lane)
    );

    CREATE TABLE operation_orders (
        book_id      text   NOT NULL,
        kind         text   NOT NULL,
        order_number text   NOT NULL,
        operation_id text   NOT NULL,
        position     bigint NOT NULL,
        CONSTRAINT operation_orders_pkey PRIMARY KEY (book_id, order_number, kind, operation_id),
        CONSTRAINT operation_orders_kind CHECK (kind IN ('trade', 'payment', 'channel'))
    );

    -- The journal. voucher id = book_id/source_id/ordinal; `position` is the source's.
    CREATE TABLE vouchers (
        position        bigint  NOT NULL,
        ordinal         integer NOT NULL,
        book_id         text    NOT NULL,
        source_id       text    NOT NULL,
        accounting_date date    NOT NULL,
        business_type   text    NOT NULL,
        rule_id         text    NOT NULL,
        ruleset_hash    text    NOT NULL,
        corrects        text,
        CONSTRAINT vouchers_pkey PRIMARY KEY (position, ordinal),
        CONSTRAINT vouchers_ordinal_positive CHECK (ordinal > 0)
    );
    CREATE INDEX vouchers_journal_idx ON vouchers (book_id, accounting_date, position, ordinal);

    CREATE TABLE voucher_lines (
        position     bigint  NOT NULL,
        ordinal      integer NOT NULL,
        line_no      integer NOT NULL,
        side         text    NOT NULL,
        subject      text    NOT NULL,
        currency     text    NOT NULL,
        amount_minor bigint  NOT NULL,
        account      text,
        off_balance  boolean NOT NULL,
        CONSTRAINT voucher_lines_pkey PRIMARY KEY (position, ordinal, line_no),
        CONSTRAINT voucher_lines_side CHECK (side IN ('debit', 'credit')),
        CONSTRAINT voucher_lines_amount_not_zero CHECK (amount_minor <> 0)
    );
    CREATE TRIGGER voucher_lines_balance AFTER INSERT ON voucher_lines
        REFERENCING NEW TABLE AS fresh
        FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_unbalanced_lines();
    CREATE TRIGGER vouchers_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON vouchers
        FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
    CREATE TRIGGER voucher_lines_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON voucher_lines
        FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

    -- Totals of the lines per lane, so that lanes do not queue on ten hot rows.
    CREATE TABLE gl_balances (
        book_id         text    NOT NULL,
        subject         text    NOT NULL,
        currency        text    NOT NULL,
        accounting_date date    NOT NULL,
        lane            integer NOT NULL,
        off_balance     boolean NOT NULL,
        debit_minor     numeric NOT NULL,
        credit_minor    numeric NOT NULL,
        CONSTRAINT gl_balances_pkey
            PRIMARY KEY (book_id, subject, currency, accounting_date, lane)
    );

    -- A ledger account's day: movements, and the balance after its highest version.
    CREATE TABLE account_balances_daily (
        book_id       text    NOT NULL,
        account       text    NOT NULL,
        currency      text    NOT NULL,
        business_date date    NOT NULL,
        lane          integer NOT NULL,
        debit_minor   numeric NOT NULL,
        credit_minor  numeric NOT NULL,
        closing_minor bigint  NOT NULL,
        last_version  bigint  NOT NULL,
        CONSTRAINT account_balances_daily_pkey
            PRIMARY KEY (book_id, account, currency, business_date, lane)
    );

    CREATE TABLE issues (
        book_id          text    NOT NULL,
        operation_id     text    NOT NULL,
        issue_no         integer NOT NULL,
        code             text    NOT NULL,
        leg_no           integer NOT NULL,
        account          text    NOT NULL,
        intended_account text    NOT NULL,
        currency         text    NOT NULL,
        amount_minor     bigint  NOT NULL,
        reason           text    NOT NULL,
        business_date    date    NOT NULL,
        position         bigint  NOT NULL,
        CONSTRAINT issues_pkey PRIMARY KEY (book_id, operation_id, issue_no)
    );
    CREATE INDEX issues_list_idx ON issues (book_id, position, issue_no);
END
$$;

SELECT ledger.create_projection_tables('projections');

-- Not projections: a rebuild leaves them alone. The relay's place in the log; the one whose
-- epoch is on the row is the active one. Results on their way to topic accounting.results.
CREATE TABLE ledger.relays (
    topic             text    NOT NULL,
    partitions        integer NOT NULL,
    log_id            uuid    NOT NULL,
    log_incarnation   integer NOT NULL,
    epoch             bigint  NOT NULL,
    position          bigint  NOT NULL,
    CONSTRAINT relays_pkey PRIMARY KEY (topic),
    CONSTRAINT relays_have_partitions CHECK (partitions > 0)
);
CREATE TABLE ledger.results_outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY,
    payload   bytea NOT NULL,
    CONSTRAINT results_outbox_pkey PRIMARY KEY (outbox_id)
);
