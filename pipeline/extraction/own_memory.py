"""Copies of values that are used later: until then, who made them may overwrite their memory."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
from torch import Tensor


def own(value: Any) -> Any:
    """Return a value whose arrays and tensors share no memory with others.

    They are found in dicts, lists, tuples and dataclasses, however deep; anything else is returned as it is.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_make"):  # a named one
        return type(value)._make(map(own, value))
    if type(value) in (list, tuple):
        return type(value)(map(own, value))
    if type(value) is dict:
        return {key: own(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(copied, field.name, own(getattr(value, field.name)))
        return copied
    return value
