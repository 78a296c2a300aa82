"""What makes pages of the documentation site out of the code; ``conf.py`` calls it."""
