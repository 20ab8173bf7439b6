"""Ground truth from Bench2Drive's annotations: the ego's future, and other road users."""
