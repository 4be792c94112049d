-- What each completeness sweep compared, found and healed. A row is made when a sweep begins;
-- each slice adds to it in the transaction that heals what was missing in the slice, so that a
-- sweep that was killed goes on from `reached`. Not a projection: a rebuild leaves it alone.
CREATE TABLE ledger.sweeps (
    sweep_id          bigint GENERATED ALWAYS AS IDENTITY,
    trigger           text        NOT NULL,
    incarnation       integer     NOT NULL,
    book_id           text,
    business_date     date,
    after_position    bigint      NOT NULL,
    through_position  bigint      NOT NULL,
    reached           bigint      NOT NULL,
    results_through   bigint      NOT NULL DEFAULT 0,
    operations        bigint      NOT NULL DEFAULT 0,
    waiting           bigint      NOT NULL DEFAULT 0,
    found             bigint      NOT NULL DEFAULT 0,
    healed            bigint      NOT NULL DEFAULT 0,
    results_lost      bigint      NOT NULL DEFAULT 0,
    results_resent    bigint      NOT NULL DEFAULT 0,
    differences       jsonb       NOT NULL DEFAULT '[]',
    started_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at       timestamptz,
    CONSTRAINT sweeps_pkey PRIMARY KEY (sweep_id),
    CONSTRAINT sweeps_trigger CHECK (trigger IN ('schedule', 'command')),
    CONSTRAINT sweeps_reached_in_range
        CHECK (reached BETWEEN after_position AND greatest(after_position, through_position))
);
CREATE INDEX sweeps_trigger_idx ON ledger.sweeps (trigger, sweep_id);

-- Operations that the ledger takes for open: the sweep looks whether they still are.
CREATE INDEX accounting_statuses_open_idx ON ledger.accounting_statuses (book_id, operation_id)
    WHERE status IN ('parked', 'waiting');
