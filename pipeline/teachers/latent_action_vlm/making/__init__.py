"""Making a teacher: latent actions from clips, labels of clips, and a language model that learns to say them."""
