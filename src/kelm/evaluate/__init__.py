"""Evaluation: how good a model is at a task file, as figures, a table and a picture.

Owns: the task file's format (tasks.py), the figures (metrics.py), running a model over a task (runner.py) and showing
what came out (report.py). Never: a tokenizer, a scheduler or a sampler of its own; it asks kelm.LLM, which runs the
engine that serves. May import: library, store, text, limits, errors, suggest.
"""

from kelm.evaluate.runner import evaluate
from kelm.evaluate.tasks import Task, read

__all__ = ["Task", "evaluate", "read"]
