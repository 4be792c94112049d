"""Composition root: settings, PostgreSQL, Kafka, relay, HTTP application and command line.

Invariant: every other room can be imported without this one; what a room needs is passed in.
"""
