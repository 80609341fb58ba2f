"""Compression: a smaller model from one in the store, and what it costs.

Owns: rounding to 8 and 4 bits (rounding.py), which layers matter least (influence.py), a checkpoint without some of
them (layers.py, folder.py), and the job that does it and measures before and after (run.py). Never: a format of its
own (compressed-tensors', models/quantization.py reads it), a change of the source. May import: evaluate, library,
models, ops, store, text, wire. request.py and table.py import no torch: the command line reads them too.
"""
