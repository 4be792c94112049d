"""The demo: a generated payment day, posted through HTTP and followed into the books.

Invariant: for one seed and size the day is the same day: the same accounts, operations, expected
answers and, whatever the bus and the order of arrival within a stage, the same vouchers.
"""
