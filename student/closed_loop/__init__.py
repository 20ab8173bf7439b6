"""From plans to controls."""
