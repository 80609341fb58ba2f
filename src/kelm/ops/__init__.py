"""The op set: what a model is made of, about a dozen ops.

Owns: the reference ops in torch (row-wise ops in reference.py, weights of 4 and 8 bits in quantized.py, rotary
positions in rope.py, paged attention in paged.py). They are the reference for every other implementation, and the
serving path until a native one exists.
Never: knows a model family, a config file, a scheduler, or who owns a block. Imports: torch and numpy only.
Imported by models/.

The contract of every op: the bits of a row's result depend on that row (and for attention on its own sequence's
keys) only, never on how many other rows there are, which ones, or where among them it lies.
"""
