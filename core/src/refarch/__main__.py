"""``python -m refarch``: what launchers such as ``accelerate launch -m refarch`` call."""

import sys

from refarch.cli import main

if __name__ == "__main__":
    sys.exit(main())
