"""The same models on several nodes behind one door.

    run.py         `kelm cluster serve`: the door's process
      door.py        its routes                          forward.py     one request: sent, and sent again
      hashing.py     which replica has its prefix        resume.py      what was delivered of a stream
      fleet.py       which replicas are up               replies.py     their answers, piece by piece
    keeper.py      the process that talks to Ray       messages.py    what it tells the door
      nodes.py       two and more raylets on 127.0.0.1   replica.py     an actor: owns one daemon
      homes.py       a daemon's home, on a shared store
    daemon.py      the daemon's process

Owns: routing, failover and the replicas' lives. Never: a model, a scheduler, torch; Ray stays in the keeper and its
workers, so the process with the door unpickles nothing. May import: serve (gate, protocol, bounds: this is a door too),
boot, kernel (the daemon's file), store, wire and what all share. Imported by cli.
"""
