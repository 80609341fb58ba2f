"""From what a decoder computes (spec.py) to the flat list of ops that csrc/step.cpp runs in one call.

    ops.py       the ops, and the buffers of activations that they work on
    build.py     a spec as such a list, plain: one op after another, each in buffers of its own
    fuse.py      gates and residual sums into the products before them
    narrow.py    what only the sampled rows need, for those rows alone
    phases.py    ops on rows alone run together, so that threads wait for each other less
    memory.py    where buffers lie: two that are never needed at once, in one place
    plan.py      all of it, and the arrays that the extension takes

Every pass can be switched off, and the answer has the same bits. Knows no torch, no file and no weights: matrices and
vectors are named as layout.py names slots.
"""
