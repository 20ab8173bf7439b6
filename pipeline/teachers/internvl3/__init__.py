"""InternVL3: questions about images in; attention, or embeddings of the images, out."""
