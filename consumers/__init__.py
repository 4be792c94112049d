"""The consumers room: the log's operations become vouchers, once each, on either bus.

Invariant: an effect is in the database if and only if its outcome row is, in the same
transaction as the position that covers it.
"""
