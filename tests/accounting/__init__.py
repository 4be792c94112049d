"""Tests of the accounting room: worked examples an accountant can read."""
