"""The projections room: what accountants and operators read, owned table by table.

Invariant: every row is a pure function of a prefix of the log, so the live tables equal
rebuilt ones; every answer says how fresh it is.
"""
