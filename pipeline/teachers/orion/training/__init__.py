"""Training of a teacher, which this project does of one alone: the tiny ORION of the demo.

Everything else here takes teachers as they were released. Those are far too large for a laptop, and a tiny
one with random weights has nothing to teach; so this one learns the synthetic world of
``pipeline.bench2drive.synthetic``. No cache and no student is involved.
"""
