"""The offline wing: a teacher looks at every frame once, and what it says is written down."""
