"""Where tests find the reference material that is not part of the repository."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("CERTSEG_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def needs_shared(*parts: str) -> pytest.MarkDecorator:
    """Skip a test, saying why, where ``SHARED/<parts>`` does not exist."""
    path = SHARED.joinpath(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"reference material missing: shared/{'/'.join(parts)}")
