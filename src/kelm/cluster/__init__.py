"""Several machines: who computes what (placement.py).

Owns: the partition of work over unequal nodes. Never: a socket to a client, a store of its own.
May import: errors, limits, store.
"""
