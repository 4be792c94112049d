"""Style as tests: what a reviewer would otherwise say every time."""
