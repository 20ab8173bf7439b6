"""Drives an agent file of Bench2Drive without CARLA, by the leaderboard's rules: on clips, or in a toy."""
