"""What stands for a vision-language model in the planner: its pooled states, or a decision transformer."""
