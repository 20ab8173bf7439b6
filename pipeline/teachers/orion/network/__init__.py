"""ORION's modules, from images to the planning token."""
