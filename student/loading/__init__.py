"""Samples of latent datasets as batches of tensors."""

from typing import Literal

Resident = Literal["none", "ram", "device"]
"""Where the training samples stay during a run: on the disk, in host memory, or on the GPU."""
