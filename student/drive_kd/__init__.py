"""Drive-KD: a small vision-language model that learns a large one's attention."""
