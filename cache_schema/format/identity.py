"""Where two manifests differ in what must agree before clips of one may join those of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cache_schema.format.manifest import Manifest


class Difference(NamedTuple):
    """One field of two manifests."""

    field: str
    """Dotted name, such as ``teacher.weights``."""
    one: Any
    """Its JSON value in the first manifest; None where it has none."""
    other: Any

    @property
    def adds_ground_truth(self) -> bool:
        """Whether only the other manifest has this field, and it is a feature of ground truth."""
        feature = self.other if self.field.startswith("features.") and self.one is None else None
        return isinstance(feature, dict) and feature.get("role") == "truth"


def differences(one: Manifest, other: Manifest) -> list[Difference]:
    """Return the fields in which the identities of two datasets differ."""
    found = list(differing_leaves(one.identity(), other.identity()))
    # These follow from other fields, and would only hide what matters.
    implied = ["format_version"]
    if any(difference.field.startswith("teacher") for difference in found):
        implied.append("assets")
    return [difference for difference in found if difference.field.partition(".")[0] not in implied]


def difference_rows(found: Iterable[Difference], values: str) -> str:
    """Return one indented line a difference.

    Args:
        found: The differences.
        values: How both values are shown, such as ``{} there, {} now``.
    """
    return "\n".join(
        f"    {difference.field}: {values.format(repr(difference.one), repr(difference.other))}"
        for difference in found
    )


def differing_leaves(one: object, other: object, field: str = "") -> Iterator[Difference]:
    """Yield the fields in which two JSON documents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from differing_leaves(one.get(key), other.get(key), f"{field}.{key}".lstrip("."))
    elif one != other:
        yield Difference(field, one, other)
