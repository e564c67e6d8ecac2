"""Thousands of tiny images: a second thread would only be waited for."""

import pytest


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    pass
