"""`python -m bivlm` is the command `bivlm`; torchrun starts it so."""

from bivlm.cli import main

if __name__ == "__main__":
    main()
