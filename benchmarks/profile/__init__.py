"""What measuring gradient conflicts costs, next to a plain step of joint training: `python -m benchmarks.profile`.

Every network is timed in one process of its own: all ways to do a step take turns there, in an order that is shuffled
in every round, on the same weights (the learning rate is 0). A time is given relative to the joint step of the same
round. Peak memory is that of a process that does nothing but one way's steps. The ways are in `ways.py` and
`published.py`, the networks in `cases.py`.
"""
