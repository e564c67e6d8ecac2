"""Read every file of a data set and report what is in it and what is wrong with it.

    python scripts/check_dataset.py dataset=camvid dataset.root=data/camvid dataset.split=val

takes the settings of certseg; those of other groups play no part. Prints counts, image sizes and the share of every
class. Names every missing, unreadable or inconsistent file, says where the labels are such that no figure means
anything, and exits with status 1 after either. Exits with status 2 when the command line cannot be used or the data set
cannot be opened at all.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.progress import track
from rich.table import Table

from certseg.datasets.files import ImageDataset
from certseg.errors import ConfigError, DataError
from certseg.metrics import LabelCounts
from certseg.pipeline.console import explain
from certseg.pipeline.declarations import read
from certseg.pipeline.settings import build, resolve
from certseg.pipeline.spec import DatasetSpec
from certseg.pipeline.trainings import lenient
from certseg.types import IGNORE_INDEX, SegmentationDataset

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def opened(overrides: list[str]) -> SegmentationDataset:
    """The data set that the command line names, with its incomplete pairs collected instead of raised.

    Raises:
        ConfigError: no data set is named, or its settings do not fit it.
        HydraException, OmegaConfBaseException: an override is unknown or malformed.
        CertsegError: what the data set's constructor raises.
    """
    if not any(entry.startswith("dataset=") for entry in overrides):
        known = ", ".join(sorted(file.stem for file in (CONFIGS / "dataset").glob("*.yaml")))
        received = " ".join(overrides) or "nothing"
        raise ConfigError("No data set named", expected=f"dataset=<name>, one of {known}", received=received)
    if flags := [entry for entry in overrides if entry.startswith("-")]:
        raise ConfigError("Only overrides are understood here, and --help", received=" ".join(flags))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides=overrides)
    spec = read(DatasetSpec, resolve(config.dataset), "dataset")
    return build("dataset", lenient(spec))


def inspect(dataset: SegmentationDataset, console: Console) -> tuple[list[str], Counter, torch.Tensor]:
    """Read every sample; bad ones are noted and passed over.

    Returns:
        ``(problems, sizes, pixels)``: one line per bad file, how many images have each size, and the number of pixels
        of each value 0 to 255 after decoding (255 = no label).
    """
    problems = list(dataset.problems) if isinstance(dataset, ImageDataset) else []
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


def main(arguments: list[str]) -> int:
    """Check the data set that ``arguments`` name; the exit status is 0 without and 1 with problems, 2 unopened."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__.strip())
        return 0
    console = Console(soft_wrap=True)
    try:
        dataset = opened(arguments)
    except Exception as error:
        return explain(error)
    problems, sizes, pixels = inspect(dataset, console)
    report(dataset, sizes, pixels, console)
    labels = LabelCounts(pixels[: len(dataset.class_names)].numpy(), int(pixels[IGNORE_INDEX]), sum(sizes.values()))
    if absent := labels.absent(dataset.class_names):
        console.print(f"Note: {absent}", highlight=False)
    if obstacle := labels.obstacle(dataset.class_names):
        problems.append(obstacle)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}" if problems else "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
