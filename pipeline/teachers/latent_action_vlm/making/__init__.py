"""Making a teacher: latent actions from clips, labels of clips, and a model that learns to say them."""
