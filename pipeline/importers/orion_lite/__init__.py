"""What Orion-Lite's collector wrote."""
