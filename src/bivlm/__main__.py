"""`python -m bivlm`: the command line."""

from bivlm.cli import main

main()
