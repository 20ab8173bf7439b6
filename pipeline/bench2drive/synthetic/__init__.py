"""Synthetic clips in Bench2Drive's own layout: small, free to share, and the same on every run."""

from pipeline.bench2drive.synthetic.demo_data import write_demo_data

__all__ = ["write_demo_data"]
