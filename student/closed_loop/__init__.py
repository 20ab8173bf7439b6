"""Driving in CARLA as ORION's agent does: from sensors to what a policy is told, from plans to controls."""

from typing import Literal

Mode = Literal["parity", "corrected"]
"""What a policy is told of the vehicle: as ORION's agent tells it, or without the agent's errors."""
