"""The line between the harness and a driver: one JSON object a line. Only the standard library: every engine has it.

driver  ─► {"name": ..., "version": ..., ...}                 once it could run (record.Facts)
harness ─► {"prompts": [[ids], ...], "tokens": n}             greedy, n tokens for each, whatever they are
driver  ─► {"prefill_s": ..., "total_s": ..., "tokens": ...}  until every prompt had a token; until the end; of all
"""

import json
import os
import sys


def open_line():
    """What the harness reads. Called first: what engines print goes to stderr from here on."""
    line = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return line


def say(line, message):
    line.write(json.dumps(message) + "\n")
    line.flush()


def serve(line, facts, run):
    """``run(prompts, tokens)`` gives (prefill_s, total_s), and Kelm's the last tokens. Until the harness closes."""
    say(line, facts)
    for request in sys.stdin:
        asked = json.loads(request)
        prefill_s, total_s, *last = run(asked["prompts"], asked["tokens"])
        tokens = len(asked["prompts"]) * asked["tokens"]
        say(line, {"prefill_s": prefill_s, "total_s": total_s, "tokens": tokens, **({"last": last[0]} if last else {})})
