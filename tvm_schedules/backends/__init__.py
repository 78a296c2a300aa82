"""Back ends: each makes code of a lowered graph and runs it."""
