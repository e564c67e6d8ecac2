"""``python run.py [group=choice ...] [setting=value ...]`` is the command ``certseg``, from a checkout."""

import sys

from certseg.pipeline.command import main

if __name__ == "__main__":
    sys.exit(main())
