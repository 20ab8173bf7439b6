"""Student networks."""
