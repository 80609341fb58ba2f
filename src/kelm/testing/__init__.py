"""Shipped test tools, for this repository and for whoever embeds the engine.

Owns: the hash model (hash_model.py) and a worker process that runs it (hash_worker.py).
Never: anything a serving path imports. Imports: any room.
"""
