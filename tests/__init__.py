"""Tests: one folder per room, and the shared voices they speak with."""
