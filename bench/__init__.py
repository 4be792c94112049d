"""Benchmarks of Daybook: commands with ratios, never tests, never a path of the product.

Invariant: what is measured is what ships. The only server of our own is the empty endpoint that
HTTP figures are compared with; baseline and subject run in turns on the same PostgreSQL server.
"""
