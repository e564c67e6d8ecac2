"""The errors certseg raises on purpose.

Every one derives from :class:`CertsegError`; ``certseg`` prints its message on one line and exits with status 2.
A message says what was expected, what came and what to do.
"""


def printable(text: str) -> str:
    r"""``text`` as every terminal, JSON file and digest takes it.

    File names may be any bytes; Python reads those that are no UTF-8 as surrogates, which cannot be written again.
    They become backslash escapes.

    >>> printable("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class CertsegError(Exception):
    """Base class. ``str(error)`` reads ``<what> Expected: ... Received: ... <remedy>``.

    Args:
        what: one sentence that names the problem and its place (a file, an option, an image).
        expected: what would have been accepted.
        received: what came instead.
        remedy: what the user can do about it, as a full sentence.
    """

    def __init__(self, what: str, *, expected: object = None, received: object = None, remedy: str | None = None):
        parts = [_sentence(what)]
        if expected is not None:
            parts.append(_sentence(f"Expected: {expected}"))
        if received is not None:
            parts.append(_sentence(f"Received: {received if str(received) else repr(received)}"))
        if remedy is not None:
            parts.append(_sentence(remedy))
        super().__init__(printable(" ".join(parts)))


def _sentence(text: str) -> str:
    """With a full stop at its end, unless there is one or an ellipsis."""
    return text if text.endswith(".") else f"{text}."


class ConfigError(CertsegError, ValueError):
    """A setting is outside its domain, unknown, or contradicts another."""


class DataError(CertsegError):
    """A data set is missing, incomplete or holds values it may not hold."""


class ModelError(CertsegError):
    """A model cannot be built or returned something that is not a logits tensor."""


class CheckpointError(CertsegError):
    """A checkpoint cannot be read safely or does not fit the model."""


class ResultError(CertsegError):
    """Stored results cannot be resumed, merged or read."""


class DependencyError(CertsegError, ImportError):
    """A library that certseg builds on is missing or cannot be loaded on this machine."""


class BracketError(CertsegError):
    """An attack broke what a certificate guarantees: one of the two has a defect."""


def tracking_failed(error: Exception) -> ResultError:
    """What to raise when Weights & Biases did not start; its library and the network raise many kinds of errors."""
    return ResultError(
        "Weights & Biases did not start",
        received=f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}",
        remedy="Use tracking=none or tracking.mode=offline, or log in with `wandb login`",
    )
