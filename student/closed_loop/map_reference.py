"""The point of a town's map that GPS coordinates refer to, and metres from it.

CARLA projects its maps by a Mercator projection that is true to length at the reference. No sensor gives the
reference: it follows from a route node that is known both in metres and in degrees.

Source: spec closed loop 3, spec Bench2Drive 6.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EARTH_RADIUS_M = 6378137.0
"""At the equator, as CARLA has it."""


class MapReference(NamedTuple):
    """Geographic coordinates of a map's origin, degrees."""

    latitude: float
    longitude: float

    def metres(self, gps: ArrayLike) -> np.ndarray:
        """Return positions in CARLA's world, x east and y south.

        Args:
            gps: (..., 2) latitudes and longitudes, degrees.
        """
        latitude, longitude = np.moveaxis(np.asarray(gps, dtype=np.float64), -1, 0)
        radius = _radius_at(self.latitude)
        x = radius * np.radians(longitude - self.longitude)
        y = radius * (_mercator(self.latitude) - _mercator(latitude))
        return np.stack([x, y], axis=-1)

    @classmethod
    def of_node(cls, gps: ArrayLike, world: ArrayLike) -> MapReference:
        """Find the reference from one node.

        Args:
            gps: (2) its latitude and longitude, degrees.
            world: (2) its x and y, metres.
        """
        (node_latitude, node_longitude), (x, y) = np.asarray(gps).tolist(), np.asarray(world).tolist()
        # Newton's method: the digits double at each step, and the node is within a degree of the reference.
        latitude = node_latitude
        for _ in range(6):
            phi, ahead = np.radians(latitude), _mercator(latitude) - _mercator(node_latitude)
            miss = np.cos(phi) * ahead - y / EARTH_RADIUS_M
            latitude -= np.degrees(miss / (1 - np.sin(phi) * ahead))
        return cls(float(latitude), float(node_longitude - np.degrees(x / _radius_at(latitude))))

    @classmethod
    def as_the_agent_solves_it(cls, gps: ArrayLike, world: ArrayLike) -> MapReference:
        """Find what ORION's agent takes for the reference: off the equator, the longitude is wrong.

        The agent's equation multiplies x by the latitude of the reference, in degrees, and its solver stops
        before even that is solved. Route and positions are all shifted by the same metres, up to 200 km.

        Args:
            gps: (2) latitude and longitude of the first node, degrees.
            world: (2) its x and y, metres.
        """
        from scipy.optimize import fsolve  # takes a moment to import

        (node_latitude, node_longitude), (x, y) = np.asarray(gps).tolist(), np.asarray(world).tolist()

        def residuals(reference: np.ndarray) -> np.ndarray:
            latitude, longitude = reference.tolist()
            cosine = math.cos(math.radians(latitude))
            # Roundings decide where the search ends: the sums are the agent's, in its order.
            easting = x * latitude * 180 / (math.pi * EARTH_RADIUS_M)
            radius = EARTH_RADIUS_M * cosine
            return np.array(
                [
                    node_longitude * cosine - easting - cosine * longitude,
                    _mercator(node_latitude) * radius + y - radius * _mercator(latitude),
                ]
            )

        # Without the full output it would warn that it has stopped early.
        found, *_ = fsolve(residuals, np.zeros(2), full_output=True)
        return cls(*found.tolist())


def _radius_at(latitude: float) -> float:
    """Radius of a circle of latitude in degrees, metres."""
    return EARTH_RADIUS_M * np.cos(np.radians(latitude))


def _mercator(latitude: ArrayLike) -> np.ndarray:
    """Stretched latitude, radians, of one in degrees."""
    return np.log(np.tan(np.radians(90.0 + np.asarray(latitude)) / 2))
