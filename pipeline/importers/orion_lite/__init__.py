"""Import of dumps by Orion-Lite's collector."""
