"""ORION's weights: the released checkpoint, converted folders, fused checkpoints."""
