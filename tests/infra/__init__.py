"""Tests of the infra room."""
