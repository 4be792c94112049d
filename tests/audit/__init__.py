"""Tests of the audit: every column of every audited table, on real books."""
