"""A policy server for closed-loop driving, and the agent file that connects a simulator to it."""
