"""What a dataset holds, in numbers and in words."""
