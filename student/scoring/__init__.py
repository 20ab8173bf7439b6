"""What a closed-loop evaluation on Bench2Drive is worth: scores, intervals, comparisons."""

from typing import Literal

Keep = Literal["first", "last"]
"""Which of several records of one drive counts, in the order of file names and inside a file."""
DEFAULT = "bench2drive220"
"""The list of routes that published numbers are over."""
