"""Bench2Drive on disk: clips, annotations, geometry, images, splits, and a synthetic generator."""
