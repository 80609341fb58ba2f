"""How fast a model runs on this machine: loading, prefill, decode, and the bandwidth that bounds it.

Owns: the plan of a run (plan.py), driving a model through it (measure.py), the reading bandwidth of this machine's
memory (bandwidth.py), what came out (figures.py). Never: an executor, a scheduler or a timer of its own; kelm.LLM runs
the engine that serves. May import: library, ops, machine, clock, limits, errors.
"""

from kelm.bench.figures import Figures
from kelm.bench.measure import measure
from kelm.bench.plan import Plan, read_streams

__all__ = ["Figures", "Plan", "measure", "read_streams"]
