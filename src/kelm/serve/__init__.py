"""See the docstring that the room's first commit writes here."""
