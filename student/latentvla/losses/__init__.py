"""What LatentVLA-R is trained for: one file a term of the loss, and a table of their names."""

LOSSES = {
    "trajectory": "student.latentvla.losses.trajectory:Trajectory",
    "agents": "student.latentvla.losses.agents:Agents",
    "code-kl": "student.latentvla.losses.codes:CodeKl",
    "code-labels": "student.latentvla.losses.codes:CodeLabels",
    "embedding": "student.latentvla.losses.embedding:Embedding",
}
"""Name -> class; its options are the class's fields."""
