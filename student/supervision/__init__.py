"""Drive a benchmark's routes, each in an evaluator process of its own, until every one has its record."""
