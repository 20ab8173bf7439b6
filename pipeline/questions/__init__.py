"""Questions about images of driving, and their answers, as sources of clips."""
