"""Orion-Lite: a small decoder that imitates ORION's planning token."""
