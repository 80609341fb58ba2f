"""The kernel: the daemon's mind.

Owns: the process table (processes.py) and what a client reads from (process.py, encodings.py), admission, the
worker's supervision (supervisor.py, link.py), what is sent to it and sent again after its death (dispatch.py,
suspects.py), the resident models (models.py), the plain data behind ``kelm ps`` (control.py).
Never: touches a device, guesses a worker's state, parses weights, writes the store, blocks the event loop.
May import: text, store, observe, wire, limits, errors, clock, config. Talks to workers over a socket only. No torch.

The life of a generation, in here:

    1. resolve(name)   manifest -> checked tokenizer -> Load, one load however many wait for it       models.py
    2. submit()        bounds and queue, or an error with retry_after_s at once                       admission.py
    3.                 a Process with a pid enters the table, queued                                  processes.py
    4.                 Submit goes to the worker, or waits for one that is up                         dispatch.py
    5. Started         running; Step: tokens -> text, stop strings                                    choice.py
    6.                 a bounded buffer; over it Pause, drained Resume, untouched for long: cut       process.py
    7. worker dies     another is started, models reloaded, Submit with the tokens known so far       supervisor.py
    8.                 done, failed or cancelled: leaves the table, exactly once
"""
