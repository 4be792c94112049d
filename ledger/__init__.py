"""The ledger room: single-sided accounts, booked synchronously as immutable account events.

Invariant: every acknowledged operation is in the log exactly once, and every head is the
fold of its account's stream.
"""
