"""The latent TransFuser: a camera-only planner."""
