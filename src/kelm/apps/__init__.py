"""apps: complete applications on top of the doors. Owns what `kelm ask` says and the grammar that binds it, and in
support/ the support desk.

An application sends requests like any client and never reaches into the kernel, a worker or a model's tensors.
May import: limits, errors, clock, suggest, origin, text (grammars, rows of files). Never torch, and nobody but cli
imports it.
"""
