"""Command lines of the inference half: ``tern-bench``, ``tern-board`` and ``tern-inspect``, one file each."""
