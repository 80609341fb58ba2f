"""Scheduling: who gets how many tokens of the next step, and who gives its blocks up.

Owns: the step plan (plan.py), tenants' shares (shares.py), the choice of victims and of the next model (turns.py), and
which models make room for another (eviction.py): pure functions over plain data, so that a simulator can run them.
Never: torch, I/O, a clock, block numbers. Imports: nothing but the standard library.
"""
