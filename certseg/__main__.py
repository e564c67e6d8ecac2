"""``python -m certseg`` is the command ``certseg``."""

import sys

from certseg.pipeline.command import main

if __name__ == "__main__":
    sys.exit(main())
