"""apps: complete applications on top of the doors. Owns what `kelm ask` says and the grammar that binds it.

An application sends requests like any client and never reaches into the kernel, a worker or a model's tensors.
May import: limits, errors, text (grammars). Never torch, and nobody but cli imports it.
"""
