"""`python -m samtune` is `samtune`."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working directory, from which libraries would import whatever has the name of another

from samtune.cli import main

main()
