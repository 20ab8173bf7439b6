"""What Bench2Drive's annotations tell of the future and of other road users."""
