"""``python -m kelm.cli``: the command, without an installed script."""

from kelm.cli.main import main

main()
