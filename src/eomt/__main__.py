"""`python -m eomt` is the command `eomt`."""

import sys

from eomt.cli import main

if __name__ == "__main__":
    sys.exit(main())
