"""Several machines: processes that compute together, and one model over several of them.

    system.py       DistributedSystem: what a user joins
      rendezvous.py   how the nodes meet               pulse.py           who lives, and whose fault it was
      shared_store.py put, get, watch                  communication.py   send, receive
      compute.py      broadcast ... all_reduce         arrays.py, group.py, backend.py under both
    placement.py    who computes what

Owns: joining, sharing and the split of a model's layers. Never: an address that other machines can reach, a pickle, a
store of its own. May import: library, worker, memory, models, ops, text, store and what all share. Imported by cli.
"""

import os

# torch prints a C++ stack for every connection that ends; that a node died is said by NodeFailed, in one line.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
