"""What a student answers to held-out questions, measured without a judge: proxies, not DriveBench scores."""
