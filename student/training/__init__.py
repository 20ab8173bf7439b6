"""The training loop. It knows no student."""
