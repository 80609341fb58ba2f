"""The worker: the process that owns a device, and the same core inside a caller's own process (``kelm.LLM``).

Owns: sequences, the KV arena's bytes, resident models, the step loop, the sampler, and its end of the socket.
Never: tenants, names of models, text, HTTP; who runs (sched/) and which block (memory/) are decided there.
Imports: sched, memory, models, text (grammars), wire, limits, errors, clock.

    process.py   a socket's commands in, reports out           python -m kelm.worker
    engine.py    submit, cancel, pause, load, step             kelm.LLM starts here
      residency.py   models in memory, their KV groups         executors.py opens a checkpoint
      placing.py     who is in this step, with blocks           sched/plan.py, memory/tables.py
      forward.py     one batch, a fault charged to one member
      sampler.py     logits -> tokens                           noise.py, penalties.py, logprobs.py
      sequence.py    one row of tokens; a generation's rows
"""
