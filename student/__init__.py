"""Training light students from a latent dataset, without its teacher."""
