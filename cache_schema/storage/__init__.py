"""Files: where they lie, written whole or not at all, locked, and read with care."""
