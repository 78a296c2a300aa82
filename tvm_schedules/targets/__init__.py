"""Named targets, and what this machine is."""
