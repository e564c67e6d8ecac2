"""What all tests share."""

import gc
import os

# before torch is imported: waiting threads sleep, so that tests stay quick on a busy machine
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers, and the commands they start, share the cores among them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from support.config_files import read_once


def pytest_collection_finish():
    """Leave what is imported, which stays to the end, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _files_of_configurations_are_read_once():
    with read_once():
        yield


@pytest.fixture
def one_thread():
    """For networks that are far too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
