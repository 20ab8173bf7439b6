"""Storage backends, atomic writes, locks, and safe reading of untrusted files."""
