-- All that a batch must know when it has the log's lock, in the trip that takes it.
--
-- Several engines take turns, and everybody waits while one of them has the lock, so each trip to
-- the server under it counts. `known` is the seal up to which the caller knows the log: the accounts
-- that events after it touched are named, so that heads it has in memory of all others stay as good
-- as the table's. They are NULL when nothing was sealed on top of it, which is so too when it is no
-- seal of this log, or more than `rows_max` rows.
-- Each statement of a volatile function sees what was committed before it began: after the lock.

CREATE FUNCTION ledger.enter_log(
    wanted_book text, known bytea, rows_max bigint,
    OUT last_id bigint, OUT seal bytea, OUT booked_at text, OUT totals text,
    OUT open_date text, OUT closed_through text,
    OUT touched_books text[], OUT touched_numbers text[]
)
LANGUAGE plpgsql VOLATILE
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    since bigint;
BEGIN
    -- the one lock of the log (ledger/log.py: LOG_LOCK)
    PERFORM pg_advisory_xact_lock(1145393475, hashtext('ledger'));
    SELECT s.last_id, s.seal, s.booked_at INTO last_id, seal, booked_at
    FROM ledger.seals AS s ORDER BY s.first_id DESC LIMIT 1;
    SELECT s.totals INTO totals
    FROM ledger.seals AS s WHERE s.book_id = wanted_book ORDER BY s.first_id DESC LIMIT 1;
    SELECT b.open_business_date::text, b.closed_through::text INTO open_date, closed_through
    FROM ledger.books AS b WHERE b.book_id = wanted_book;
    SELECT s.first_id INTO since FROM ledger.seals AS s WHERE s.previous = known;
    IF last_id - since < rows_max THEN
        SELECT coalesce(array_agg(a.book_id), '{}'), coalesce(array_agg(a.number), '{}')
        INTO touched_books, touched_numbers
        FROM (
            SELECT DISTINCT e.originator_id FROM ledger.stored_events AS e
            WHERE e.notification_id >= since AND e.notification_id <= enter_log.last_id
        ) AS t
        JOIN ledger.accounts AS a ON a.account_id = t.originator_id;
    END IF;
END
$$;
