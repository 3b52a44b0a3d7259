"""The entry point of ``python -m tests.newcomer``."""

import sys

from tests.newcomer.run import main

if __name__ == "__main__":
    sys.exit(main())
