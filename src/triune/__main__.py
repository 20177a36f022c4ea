"""`python -m triune`, and so `torchrun -m triune`: the command line."""

from triune.cli import main

if __name__ == "__main__":
    main()
