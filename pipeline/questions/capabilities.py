"""What a question asks for, by the words of every data set (spec: Drive-KD, sections 3 and 9.4)."""

from __future__ import annotations

from cache_schema.errors import RequestError

CAPABILITY_OF = {
    "perception": ("perception", "perceptual", "perceive", "per", "p"),
    "reasoning": (
        *("reasoning", "reason", "logical_reasoning", "infer", "r"),
        *("prediction", "behavior", "behaviour"),
    ),
    "planning": ("planning", "plan", "pl", "d", "decision"),
}
"""Capability -> how data sets call it, in lower case, with ``_`` for ``-`` and space.

Drive-KD knows all but the last three of reasoning: DriveLM's and Bench2Drive-VL's kinds of questions, which
it files there.
"""
_KNOWN = {alias: capability for capability, aliases in CAPABILITY_OF.items() for alias in aliases}
PARTS = {"percep": "perception", "reason": "reasoning", "plan": "planning"}
"""Part of any other word -> capability; the first one decides."""


def capability_of(written: object, where: str) -> str:
    """Return the capability that a data set's word means.

    Args:
        written: The word, in whatever case.
        where: What has it, for the message: "entry 3 of data.json".

    Raises:
        RequestError: It is no such word. The message lists those that are.
    """
    word = written.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(written, str) else ""
    if word in _KNOWN:
        return _KNOWN[word]
    for part, capability in PARTS.items():
        if part in word:
            return capability
    mapping = "; ".join(
        f"{', '.join(aliases)} -> {capability}" for capability, aliases in CAPABILITY_OF.items()
    )
    parts = ", ".join(f"{part!r} -> {capability}" for part, capability in PARTS.items())
    raise RequestError(
        f"{where} is of an unknown capability: {str(written)[:80]!r}",
        expected=f"{mapping}; or a word with {parts}",
        repair="write one of these words there, or take the entry out",
    )
