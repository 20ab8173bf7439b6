"""Datasets are sent, fetched, merged, divided and encoded again."""
