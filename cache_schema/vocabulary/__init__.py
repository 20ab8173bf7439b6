"""What features mean: names and units, system by system. Nothing else here names one."""
