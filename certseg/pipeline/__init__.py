"""The composition root: a Hydra configuration in, a trained, attacked, certified and reported model out."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certseg.pipeline.main import run, run_job
else:

    def __getattr__(name):
        """Import what computes when it is first asked for, so that the command line answers before torch is there."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from certseg.pipeline import main

        return getattr(main, name)


__all__ = ["run", "run_job"]
