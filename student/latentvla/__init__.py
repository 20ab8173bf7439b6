"""LatentVLA-R: a camera-only planner, fused with a vision-language model's latent actions, and distilled."""
