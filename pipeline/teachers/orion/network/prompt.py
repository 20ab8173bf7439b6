"""The constant prompt, by token ids.

The ids are written out because versions of the tokenizer disagree about the blank before ``<waypoint_ego>``,
and an extra id would move the planning token.

Source: spec ORION teacher 1.7, 6.2.
"""

from __future__ import annotations

IMAGE_PLACEHOLDER = -200
"""Stands for the vision tokens."""

WAYPOINT = 32000
"""``<waypoint_ego>``, the token added to Llama's 32000."""

# fmt: off
SYSTEM = (
    1, 319, 13563, 1546, 263, 12758, 1404, 322, 385, 23116, 21082, 20255, 29889, 450, 20255, 4076, 8444,
    29892, 13173, 29892, 322, 1248, 568, 6089, 304, 278, 1404, 29915, 29879, 5155, 29889, 3148, 1001,
    29901, 29871,
)
"""The conversation's opening, up to the images."""

REQUEST = (
    29871, 13, 3492, 526, 19500, 263, 1559, 29889, 12148, 3867, 278, 18987, 23324, 706, 363, 278, 321,
    1484, 1559, 1728, 9590, 29889, 319, 1799, 9047, 13566, 29901, 2266, 338, 278, 18987, 23324, 706,
)
"""The request for a trajectory, and the answer up to the waypoint token."""

END = 2
# fmt: on

PROMPT = (*SYSTEM, IMAGE_PLACEHOLDER, *REQUEST, WAYPOINT, END)
"""All 71 ids."""
