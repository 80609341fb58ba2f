"""The executor named ``native``: a decoder on the compiled kernels, a whole step in one call. Knows no torch.

decoder.py    the Executor of batch.py
opening.py    which models it can run, and how one is made from a checkpoint's files
weights.py    packed in memory, where there is no image
"""
