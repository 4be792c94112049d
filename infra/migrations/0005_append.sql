-- One batch of the engine in one statement: one trip to the server, one transaction.
--
-- Rule (heads): `base` is the seal the batch was decided on. Under the commit-order lock it is
-- compared with the log's last seal: when nobody has committed since, everything the batch read is
-- current; else nothing is written ('superseded'). Rule (idempotency): when one of `asked` (the
-- streams of its operations) is on record, nothing is written ('known'); the unique keys stay the
-- last guard. Each statement of a volatile function sees what was committed before it began.

CREATE FUNCTION ledger.append_batch(
    base bytea, asked uuid[],
    first_id bigint, last_id bigint, book_id text, booked_at text, totals text, seal bytea,
    streams uuid[], versions bigint[], topics text[], states bytea[], digests bytea[],
    account_ids uuid[], business_dates date[], balances bigint[], helds bigint[],
    frozens bigint[], account_versions bigint[], previous_balances bigint[],
    day_debits bigint[], day_credits bigint[], debit_totals bigint[], credit_totals bigint[]
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    last_seal bytea;
BEGIN
    -- 1. the one lock of the log (ledger/log.py: LOG_LOCK)
    PERFORM pg_advisory_xact_lock(1145393475, hashtext('ledger'));
    -- 2. is what was decided still so?
    SELECT s.seal INTO last_seal FROM ledger.seals AS s ORDER BY s.first_id DESC LIMIT 1;
    IF last_seal IS DISTINCT FROM base THEN
        RETURN 'superseded';
    END IF;
    PERFORM 1 FROM ledger.stored_events AS e
    WHERE e.originator_id = ANY (asked) AND e.originator_version = 1;
    IF FOUND THEN
        RETURN 'known';
    END IF;
    -- 3. heads, events, seal
    UPDATE ledger.accounts AS a
    SET balance = u.balance, held = u.held, frozen = u.frozen, version = u.version,
        business_date = u.business_date, previous_balance = u.previous_balance,
        day_debits = u.day_debits, day_credits = u.day_credits,
        debit_total = u.debit_total, credit_total = u.credit_total
    FROM unnest(account_ids, business_dates, balances, helds, frozens, account_versions,
                append_batch.previous_balances, append_batch.day_debits,
                append_batch.day_credits, debit_totals, credit_totals)
        AS u (account_id, business_date, balance, held, frozen, version, previous_balance,
              day_debits, day_credits, debit_total, credit_total)
    WHERE a.account_id = u.account_id;
    INSERT INTO ledger.stored_events
        (originator_id, originator_version, topic, state, notification_id, digest)
    SELECT r.stream, r.version, r.topic, r.state, append_batch.first_id - 1 + r.n, r.digest
    FROM unnest(streams, versions, topics, states, digests)
        WITH ORDINALITY AS r (stream, version, topic, state, digest, n);
    INSERT INTO ledger.seals (first_id, last_id, book_id, booked_at, totals, previous, seal)
    VALUES (append_batch.first_id, append_batch.last_id, append_batch.book_id,
            append_batch.booked_at, append_batch.totals, base, append_batch.seal);
    PERFORM pg_notify('ledger_log', append_batch.last_id::text);
    RETURN 'appended';
END
$$;
