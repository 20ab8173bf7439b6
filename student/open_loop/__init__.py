"""Open-loop evaluation: plans against what really happened."""
