"""Latent datasets made of what other programs wrote."""
