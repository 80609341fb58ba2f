"""What can be seen of a running daemon.

Owns: the Prometheus registry and its names (metrics.py), the event loop's watchdog (watchdog.py).
Never: decides anything, keeps prompts or keys, uses prometheus_client's global registry.
May import: wire, limits, clock. Imported by kernel and serve.
"""
