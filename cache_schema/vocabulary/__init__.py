"""What features mean: names and units, system by system. Nothing else in this package names a system."""
