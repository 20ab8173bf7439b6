"""Qwen2.5-VL as a teacher of latent actions: LatentVLA-R, AutoVLA, and others that tell codes."""
