"""`python -m limbeck`."""

import sys
from pathlib import Path

# `python -m` looks in the current folder first: a `task.py` that lies there would be taken for our package.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parent.parent:
    del sys.path[0]

from limbeck.cli import main

if __name__ == "__main__":
    main()
