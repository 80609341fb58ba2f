"""jobs: the process of one job. It is told what to do over its socket, does it, and ends.

Owns: the process (process.py), what a kind of job is given (context.py), which function does which kind (kinds.py).
Never: serves, survives its daemon, writes outside of the store and its own folder. May import: tune, evaluate, store,
wire, limits, errors, clock. Started by the kernel, imported by nobody.
"""
