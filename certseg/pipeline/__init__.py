"""The composition root: a Hydra configuration in, a trained, attacked, certified and reported model out."""

from certseg.pipeline.main import run, run_job

__all__ = ["run", "run_job"]
