"""Synthetic clips in Bench2Drive's own layout: small, free to share, and reproducible."""

from pipeline.bench2drive.synthetic.demo_data import write_demo_data

__all__ = ["write_demo_data"]
