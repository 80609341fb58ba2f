"""The library: ``kelm.LLM`` runs the worker's core inside the caller's own process, with no daemon.

Owns: the friendly face (llm.py), its parameters and results. Never: a scheduler, a sampler or a tokenizer of its own;
it drives the same engine and the same text path as the daemon. May import: store, config, text, worker, wire.
"""

from kelm.library.llm import LLM
from kelm.library.params import Completion, SamplingParams, TokenSpan

__all__ = ["LLM", "Completion", "SamplingParams", "TokenSpan"]
