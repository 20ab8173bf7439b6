"""What a latent dataset is on disk: FORMAT.md as types."""
