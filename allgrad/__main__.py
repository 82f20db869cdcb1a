"""`python -m allgrad` is the command `allgrad`."""

import sys

from allgrad.launch.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
