"""Balanced double-entry books made from the ledger's single-sided operations: pure, no clock.

Invariant: a voucher is a function of one operation and one ruleset and nothing else, it
balances per currency, and its lines on leg subjects equal the legs.
"""
