"""Perception: what a teacher, or a source, says of a frame, computed while a student drives."""
