"""Whether a library is right."""
