"""The soak: a seeded random history run against the real system and a model that shares no code."""
