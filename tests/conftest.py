"""Set before torch is imported: waiting threads sleep, so that tests stay quick on a busy machine."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
