"""Reading and writing latent datasets."""
