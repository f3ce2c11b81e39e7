"""`python -m ssi_core` is the command line."""

from .cli import main

main()
