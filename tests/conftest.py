"""Set before torch is imported: waiting threads sleep, so that tests stay quick on a busy machine."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
