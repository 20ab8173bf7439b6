"""Checking every byte of a dataset, and setting damaged clips aside."""
