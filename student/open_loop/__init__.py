"""Open-loop evaluation of driving policies: plans against what really happened. It knows no system."""
