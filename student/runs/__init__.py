"""What a run is: its configuration, and what its folder holds."""
