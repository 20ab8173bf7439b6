"""Latent datasets from files that other programs wrote."""
