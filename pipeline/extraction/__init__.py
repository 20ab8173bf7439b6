"""Extraction: a teacher is run over every sample once, and its features are written."""
