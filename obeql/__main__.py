"""`python -m obeql`: the command line."""

import sys

from obeql.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
