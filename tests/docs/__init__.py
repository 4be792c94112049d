"""The documentation as tests: what a reader would type is run, what it names exists."""
