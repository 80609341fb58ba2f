"""The wire: what the daemon and its workers say to each other.

Owns: the typed messages (messages.py) and their framing on a Unix socket (framing.py).
Never: logic, I/O policy, torch. Imports: errors, limits. Imported by kernel, worker, serve and the library.
"""
