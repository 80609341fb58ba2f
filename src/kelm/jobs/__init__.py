"""jobs: the process of one job. It is told what to do over its socket, does it, and ends.

Owns: the process (process.py), which function does which kind (kinds.py). What such a function is given is in
kelm.context.
Never: serves, survives its daemon, writes outside of the store and its own folder. May import: tune, compress,
evaluate, context, store, wire, limits, errors, clock. Started by the kernel, imported by nobody.
"""
