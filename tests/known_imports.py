"""What breaks the contract of ``test_layers.py`` today. An entry that no longer does fails: this can only shrink."""

UPWARD: set[tuple[str, str]] = set()
IN_CIRCLES: set[str] = set()
SIBLINGS: set[tuple[str, str]] = set()
ON_A_BOARD: set[str] = set()
