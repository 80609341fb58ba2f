"""Memory: who holds which bytes.

Owns: the byte ledger (ledger.py), the cutting of the KV arena's slabs into blocks (layout.py), the blocks and
their reference counts (block_pool.py), the block tables of a sequence (tables.py), and which full blocks may be
used again (prefix.py). Block numbers only: the bytes themselves are in worker/arena.py.
Never: torch, I/O, a clock, or the decision who runs (sched/). Imports: limits, errors.
"""
