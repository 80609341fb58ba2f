"""Text in, token ids out, and back: tokenizer, chat template, detokenizer, stop strings, grammars.

Owns: what a checkpoint's tokenizer files mean (files, spec, tokenizer, pieces), what a stream may show
(detokenizer, stops, stream), how messages become a prompt (template, chat), which tokens a grammar allows
(grammar), and the killable process that does this for untrusted files (helper, helper_main).
Never: weights, sequences, sockets of clients, torch, transformers, code from a model's folder.
Imports: limits, errors, clock, wire. Imported by kernel, serve, the worker (grammar) and the library.
"""
