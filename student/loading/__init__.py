"""Samples of latent datasets as batches of tensors."""
