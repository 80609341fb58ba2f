"""Kelm beside other engines: the same tokens, the same precision, turn by turn in one run on one machine.

Owns: the work (workloads.py), who does it (contenders.py, each engine in a process of its own: drivers/, servers.py),
the turns (turns.py), what comes out (record.py, statistics.py) and how it is shown (document.py, charts.py).
`make bench` is its command line. Never: anything that an engine does; it only asks and looks at the clock.
"""
