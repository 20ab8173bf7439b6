"""Drive-KD: a small vision-language model learns from the attention of a big one (arXiv 2601.21288)."""
