"""`python -m triune`, and so `torchrun -m triune`: the command line."""

import os
import sys

if __name__ == "__main__":
    # Python puts the working folder first for -m. The installed command does not, and a plug-in file that lies there would
    # be taken for a module that is installed.
    if sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]
    from triune.cli import main

    main()
