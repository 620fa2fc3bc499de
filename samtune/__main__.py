"""`python -m samtune` is `samtune`."""

from samtune.cli import main

main()
