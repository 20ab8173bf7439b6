"""The format of a latent dataset on disk: FORMAT.md as types."""
