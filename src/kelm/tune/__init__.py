"""tune: models made from text. This room owns pretraining: recipe, tokenizer, packing, the training decoder, the
step loop, checkpoints that resume exactly, held-out measures, and the export that every loader reads.

It never serves: a finished model is a folder of safetensors and JSON that `store` imports like any other.
May import: torch, tokenizers, safetensors, numpy, rich; limits, errors, clock. Nobody below cli imports it.
"""
