"""The ground floor: what a latent dataset is. No torch."""
