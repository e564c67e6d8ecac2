"""Train, attack, certify and report: ``python run.py [group=choice ...] [setting=value ...]``, ``--help`` for more."""

import os
import sys

import hydra
from omegaconf import DictConfig

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # threads that spin for long stall a machine that is shared
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach explain() below instead of a stack trace


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Hand the composed configuration to the pipeline."""
    from certseg.pipeline import run_job  # here, so that --help and --cfg answer at once

    run_job(cfg)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        from certseg.pipeline.console import explain

        sys.exit(explain(error))
