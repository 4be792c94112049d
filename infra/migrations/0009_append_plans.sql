-- The statements of `ledger.append_batch` are planned once for a connection, not for each batch.
--
-- Every look-up in it goes by a key, and hash joins, merge joins and sequential scans are off: the
-- values of a batch cannot change the plan. PostgreSQL found plans with known array lengths a
-- little cheaper and made them anew for every call, which cost more than carrying them out.
-- A statistic that changes (ANALYZE) still makes it plan again. Who runs the program before this
-- migration calls the same function.

DO $$
DECLARE
    append regprocedure;
BEGIN
    SELECT p.oid INTO STRICT append
    FROM pg_proc AS p
    WHERE p.proname = 'append_batch' AND p.pronamespace = 'ledger'::regnamespace;
    EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', append);
END
$$;
