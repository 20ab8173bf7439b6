"""LatentVLA-R's teacher: a vision-language model that thinks in latent actions."""
