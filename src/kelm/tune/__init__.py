"""tune: models made from text, and models taught from examples.

Pretraining (`kelm pretrain`): recipe, tokenizer, packing, the training decoder, the step loop, held-out measures, and
the export that every loader reads. Fine-tuning (`kelm tune`, a job): data, split, methods, the two learners
(classifier, chat) over their base, the loop, the adapter. Both keep checkpoints that resume exactly.

It never serves: what is finished is a folder that `store` imports, or a version of a variant that `store` adds.
May import: torch, transformers, peft, tokenizers, safetensors, numpy, rich; models, evaluate, text, store, context,
limits, errors, clock. data.py and split.py are without torch, for the command line. Nobody below cli and jobs imports
it.
"""
