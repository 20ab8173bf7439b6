"""Runs and frames, shown to people."""
