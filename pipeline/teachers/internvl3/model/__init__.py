"""The model itself: its sizes, its network, its weights."""
