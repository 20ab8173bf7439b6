"""As much of the CARLA leaderboard as an agent of sensors touches."""
