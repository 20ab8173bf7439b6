"""Pushing, pulling, merging, dividing and reencoding datasets."""
