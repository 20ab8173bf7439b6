"""Driving in CARLA as ORION's agent does: from sensors to what a policy is told, from plans to controls."""
