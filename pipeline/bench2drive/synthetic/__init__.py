"""Synthetic clips in Bench2Drive's own layout and questions about them: small, free, and reproducible."""

from pipeline.bench2drive.synthetic.demo_data import write_demo_data
from pipeline.bench2drive.synthetic.questions import write_demo_questions

__all__ = ["write_demo_data", "write_demo_questions"]
