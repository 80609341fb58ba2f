"""The command line: one file for each group of commands, main.py for what they are called.

Owns: what a person types and sees; starting the daemon. Everything a command needs is imported inside it, so that
`kelm --help` costs nothing; torch is never imported here. Commands that need a running model talk to the daemon
through its doors (client.py), like any other client.
Never: a second way to do what a door does; a traceback for a mistake of the user's.
May import: everything but worker and models; imported by nobody.
"""
