"""Bench2Drive as it lies on disk: clips, annotations, geometry, images, splits, and a synthetic generator."""
