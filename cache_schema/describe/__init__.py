"""Summaries, statistics, comparisons and the card of a dataset."""
