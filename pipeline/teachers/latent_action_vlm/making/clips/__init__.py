"""What latent actions are learned from: transitions of clips, and what is seen of their images."""
