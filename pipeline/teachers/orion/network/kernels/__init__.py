"""What ORION computes on a GPU in fewer passes over the memory than separate operations would take."""

from importlib.util import find_spec

HAS_TRITON = find_spec("triton") is not None
"""It is a part of torch for GPUs, but not on Windows."""
