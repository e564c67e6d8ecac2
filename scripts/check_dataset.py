"""Read every file of a data set and report what is in it and what is wrong with it.

    python scripts/check_dataset.py dataset=camvid dataset.root=data/camvid dataset.split=val

takes the settings of ``configs/dataset/<name>.yaml`` and the overrides of the main command. Prints counts, image sizes
and the share of every class; names every missing, unreadable or inconsistent file and then exits with status 1. Exits
with status 2 when the data set cannot be opened at all.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import track
from rich.table import Table

from certseg.datasets.files import FileDataset
from certseg.errors import CertsegError, ConfigError, DataError
from certseg.types import IGNORE_INDEX, SegmentationDataset

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PIPELINE_KEYS = ("limit", "train_split", "val_split")


def build(overrides: list[str]) -> SegmentationDataset:
    """The data set that the command line names, with its incomplete pairs collected instead of raised.

    Raises:
        ConfigError: unknown data set or option.
        CertsegError: what the data set's constructor raises.
    """
    chosen = [f"+{entry}" if entry.startswith("dataset=") else entry for entry in overrides]
    if not any(entry.startswith("+dataset=") for entry in chosen):
        known = ", ".join(sorted(file.stem for file in (CONFIGS / "dataset").glob("*.yaml")))
        raise ConfigError("No data set named", expected=f"dataset=<name>, one of {known}", received=" ".join(overrides))
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            settings = OmegaConf.to_container(compose(overrides=chosen), resolve=True)["dataset"]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"The command line cannot be used: {error}", received=" ".join(overrides)) from error
    kind = get_class(settings.pop("_target_"))
    arguments = {key: value for key, value in settings.items() if key not in PIPELINE_KEYS}
    if issubclass(kind, FileDataset):
        arguments["strict"] = False
    return kind(**arguments)


def inspect(dataset: SegmentationDataset, console: Console) -> tuple[list[str], Counter, torch.Tensor]:
    """Read every sample; bad ones are noted and passed over.

    Returns:
        ``(problems, sizes, pixels)``: one line per bad file, how many images have each size, and the number of pixels
        of each value 0 to 255 after decoding (255 = no label).
    """
    problems = list(getattr(dataset, "problems", ()))
    sizes: Counter = Counter()
    pixels = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64)
    for index in track(range(len(dataset)), "reading", console=console, transient=True):
        try:
            sample = dataset[index]
        except DataError as error:
            problems.append(str(error))
            continue
        sizes["{} x {}".format(*sample.target.shape)] += 1
        pixels += torch.bincount(sample.target.flatten(), minlength=IGNORE_INDEX + 1)
    return problems, sizes, pixels


def report(dataset: SegmentationDataset, sizes: Counter, pixels: torch.Tensor, console: Console) -> None:
    """Print counts, sizes and the class histogram."""
    good = sum(sizes.values())
    console.print(f"{dataset.name}, split {dataset.split}: {good} good images of {len(dataset)} with both files")
    shown = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5))
    more = f", and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
    console.print(f"height x width (images): {shown or 'none'}{more}")
    table = Table("id", "class", "pixels", "share")
    for column in (0, 2, 3):
        table.columns[column].justify = "right"
    labelled = max(1, int(pixels[:IGNORE_INDEX].sum()))
    for index, name in enumerate(dataset.class_names):
        count = int(pixels[index])
        table.add_row(str(index), name, f"{count:,}", f"{count / labelled:.2%}")
    table.add_section()
    count = int(pixels[IGNORE_INDEX])
    table.add_row(str(IGNORE_INDEX), "no label", f"{count:,}", f"{count / max(1, int(pixels.sum())):.2%} of all")
    console.print(table)


def main(overrides: list[str]) -> int:
    """Check the data set that ``overrides`` name; the exit status is 0 without and 1 with problems, 2 unopened."""
    console = Console(soft_wrap=True)
    try:
        dataset = build(overrides)
    except CertsegError as error:
        print(error, file=sys.stderr)
        return 2
    problems, sizes, pixels = inspect(dataset, console)
    report(dataset, sizes, pixels, console)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
