"""The doors: HTTP (OpenAI's and vLLM's shapes, and the admin door) and server-sent events.

Owns: the listening socket (server.py, protocol.py), who may come in (gate.py), the shape of every error
(replies.py, envelope.py), the bounds of every field (requests.py over checks.py over kelm.limits), the shape of
every answer (one file for each door).
Never: schedules, tokenizes on the loop what is long, loads weights, knows a worker, serves a page of another origin.
May import: kernel, text (what a Model carries), limits, errors, clock, config, wire. No torch. Imported by cli only.

The way of a request:

    1. protocol.py   header bytes and header time are bounded; malformed HTTP is answered in OpenAI's shape
    2. gate.py       Host, Origin, API key, on the raw ASGI scope
    3. envelope.py   x-request-id; whatever escapes below becomes an error body
    4. body.py       body bytes, time and JSON depth are bounded, then parsed
    5. fields.py     a request dataclass is its own table: name -> type -> Bound
    6. a door        resolve the model, build Generation or Encoding, give it to the kernel
    7. stream.py     server-sent events, or one JSON body; a client that goes away cancels its processes
"""
