"""Programs that run in an engine's own environment and speak line.py's lines; they import neither each other nor Kelm,
but for Kelm's own."""
