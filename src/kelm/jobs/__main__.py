"""``python -m kelm.jobs DESCRIPTOR``: see process.py."""

from __future__ import annotations

import sys

from kelm.jobs.process import serve

if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
