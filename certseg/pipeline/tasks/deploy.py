"""The task of ``certseg input=photos/``: pictures without labels, predicted and certified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from certseg.certifiers.checked import certify_checked
from certseg.compute.hardware import Hardware, rank, world_size
from certseg.compute.streams import NoiseStream
from certseg.datasets import IMAGE_SUFFIXES, PLAIN, Legend, Reader, pixels_of
from certseg.datasets.walking import pictures_in, sorted_out
from certseg.errors import ConfigError, DataError, printable
from certseg.pipeline.console import progress, say
from certseg.pipeline.provenance import provenance
from certseg.pipeline.stages import Plan
from certseg.pipeline.tasks.task import Task
from certseg.pipeline.weights import Network, legend_of, obtain
from certseg.reporting import Entry, Panel, claim, group_palette, picture, safe_name, write_json_atomic
from certseg.types import IGNORE_INDEX, Certificate, Certifier, class_ids
from certseg.types.hierarchy import Hierarchy


def deploy(task: Task, path: str) -> None:
    """Certify the pictures at ``path`` with the network of the run.

    The data set gives its name and classes alone; its files are needed only where a network is trained.

    Args:
        task: the run.
        path: a picture or a folder of pictures.

    Raises:
        ConfigError: the run has no certifier, or an attack, which needs labels.
        CheckpointError: the checkpoint cannot be read, does not fit, or names other classes than the data set.
        CertsegError: see :func:`pictures_of`, :func:`certseg.pipeline.weights.obtain` and :func:`certify_pictures`.
    """
    spec, hardware = task.spec, task.hardware
    if spec.attack is not None:
        raise ConfigError(
            "input= certifies pictures and attacks none",
            received=f"attack={spec.attack.name}",
            remedy="Leave attack= out, or attack the images of a data set, whose labels an attack needs",
        )
    certifier = Plan.of(spec).certifier
    if certifier is None:
        raise ConfigError("input= needs a certifier", received="certifier=none", remedy="Use certifier=segcertify")
    task.check_tracking()
    reader = Reader.of(*spec.dataset.reading)
    files = pictures_of(path, certifier, reader)
    legend = legend_of(spec)
    folder = Path(spec.output) / legend.name
    network = obtain(spec, legend, hardware, folder, task.tracker.training_options(), certifier=certifier)
    directory = task.directory / "pictures"
    certify_pictures(
        files, certifier, network, legend, seed=spec.seed, hardware=hardware, directory=directory, reader=reader
    )


def pictures_of(path: str | Path, certifier: Certifier, reader: Reader = PLAIN) -> list[Path]:
    """The picture files at ``path``: itself, or those directly in the folder, sorted.

    Args:
        path: a picture, or a folder of pictures.
        certifier: what is to certify them.
        reader: how they are read.

    Raises:
        ConfigError: the certifier's settings could certify no pixel of one of them.
        DataError: there are none, some of other formats, two that differ in their suffix alone, or one that cannot be
            read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no picture at input={path}", received="no such file or folder")
    is_folder = path.is_dir()
    listing = pictures_in(path, IMAGE_SUFFIXES, recursive=False) if is_folder else sorted_out([path], IMAGE_SUFFIXES)
    found = [file for file, _ in listing.files]
    if listing.foreign or not found:
        raise DataError(
            f"There is no picture at input={path}" if not found else f"Not every picture at input={path} can be read",
            expected=f"files that end in {', '.join(IMAGE_SUFFIXES)}",
            received=", ".join(file.name for file in listing.foreign[:5]) or None,
            remedy="Name one of the folders within it: those are not searched"
            if is_folder and not found and pictures_in(path, IMAGE_SUFFIXES).files
            else None,
        )
    stems = [file.stem for file in found]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataError("Pictures of one folder need different names", received=", ".join(twice[:5]))
    for file in found:
        _check_size(certifier, file, reader.sides(file))
    return found


def _check_size(certifier: Certifier, file: Path, size: tuple[int, int]) -> None:
    """Raise ConfigError, which names the file, if the certifier needs larger pictures."""
    try:
        certifier.check_size(size)
    except ConfigError as error:
        raise ConfigError(
            f"The picture {file} cannot be certified",
            received=str(error).rstrip("."),
            remedy="Leave it out, or choose settings that fit it",
        ) from error


def certify_pictures(
    files: Sequence[Path],
    certifier: Certifier,
    network: Network,
    legend: Legend,
    *,
    seed: int,
    hardware: Hardware,
    directory: Path,
    reader: Reader = PLAIN,
) -> list[Path]:
    """Certify every file and write three files for each into ``directory``:

    - ``<name>.certified.png``: class ids of the certified pixels, 255 where the certifier abstains; a certified group
      of several classes has an id of its own, which the next file explains;
    - ``<name>.json``: what is claimed, with which confidence, for which threat, about which network (its settings and
      the digest of its weights), from how many samples of which seed, on which device, and the share of each class;
    - ``<name>.overview.png``: the picture, the prediction and the certified map, to look at.

    Pictures that an earlier run into the same directory finished are computed again. Under torchrun every rank takes
    its share.

    Args:
        files: the pictures.
        certifier: what certifies them.
        network: what predicts them.
        legend: name and classes of the data set that the network was made for.
        seed: the seed of the noise; with the file's name it decides the random numbers of a picture.
        hardware: device, precision, and the number of copies of a picture per forward pass.
        directory: where the files go; it is made if it is not there.
        reader: how the pictures are read.

    Returns:
        The ``.json`` files of the pictures that this rank took.

    Raises:
        ConfigError: a certificate is about groups of classes and has no levels.
        DataError: a file cannot be read; the others before it are finished.
    """
    directory.mkdir(parents=True, exist_ok=True)
    mine = list(files)[rank() :: world_size()]
    sidecars, shares = [], []
    common = {
        "model": network.label,
        "network": network.identity,
        "seed": seed,
        "provenance": provenance(hardware),
    }
    with progress("certify", len(mine)) as on_image:
        for file in mine:
            image = pixels_of(reader.read(file))
            stream = NoiseStream(seed, printable(file.name))
            certificate = certify_checked(certifier, network.segmenter, image, stream=stream, hardware=hardware)
            stem = directory / safe_name(printable(file.stem))
            _write_map(stem.with_name(f"{stem.name}.certified.png"), certificate)
            _draw(stem.with_name(f"{stem.name}.overview.png"), printable(file.name), image, certificate, legend)
            sidecar = stem.with_name(f"{stem.name}.json")
            write_json_atomic(sidecar, _facts(file, certificate, certifier, legend.class_names) | common)
            sidecars.append(sidecar)
            shares.append(float(certificate.certified.double().mean()))
            on_image(printable(file.name))
    told = f", of which {np.mean(shares):.1%} of the pixels are certified on average" if shares else ""
    say(f"{len(mine)} certified maps with sidecars{told}: {directory}")
    return sidecars


def _groups(certificate: Certificate) -> torch.Tensor:
    """The ids ``H x W`` of what is certified: class ids, or those of groups where the certificate has a hierarchy."""
    if certificate.hierarchy is None or certificate.levels is None:  # the one where the other: it has been checked
        return certificate.classes
    return Hierarchy(certificate.hierarchy).ids(certificate.classes, certificate.levels)


def _write_map(path: Path, certificate: Certificate) -> None:
    ids = torch.where(certificate.certified, _groups(certificate), IGNORE_INDEX)
    Image.fromarray(class_ids(ids).numpy()).save(path)


def _draw(path: Path, title: str, image: torch.Tensor, certificate: Certificate, legend: Legend) -> None:
    panels = [
        Panel("image", image=image.permute(1, 2, 0).numpy()),
        Panel("prediction", labels=certificate.classes.numpy()),
        Panel("certified", labels=_groups(certificate).numpy(), certified=certificate.certified.numpy()),
    ]
    class_names: Sequence[str] = legend.class_names
    palette: Sequence[Sequence[int]] = legend.palette
    if certificate.hierarchy is not None:
        hierarchy = Hierarchy(certificate.hierarchy)
        class_names, palette = hierarchy.groups, group_palette(hierarchy, palette)
    picture(path, panels, class_names, palette, title=title)


def _facts(file: Path, certificate: Certificate, certifier: Certifier, class_names: Sequence[str]) -> dict[str, Any]:
    classes, certified = certificate.classes.numpy(), certificate.certified.numpy()
    number = len(class_names)
    predicted = np.bincount(classes.ravel(), minlength=number) / classes.size
    kept = np.bincount(_groups(certificate).numpy()[certified], minlength=number) / classes.size
    summary: Mapping[str, Any] = {
        "kind": "certifier",
        "name": certifier.name,
        "figures": {},
        "images": 1,
        "predictor": certificate.predictor,
        "threat": certificate.threat.to_json(),
        "confidence": certificate.confidence,
        "guarantee": certificate.guarantee.to_json(),
    }
    return {
        "image": printable(file.name),
        "size": list(classes.shape),
        "claim": claim(Entry(summary)),
        "threat": summary["threat"],
        "confidence": certificate.confidence,
        "predictor": certificate.predictor,
        "settings": dict(certifier.settings),
        "abstention": float(1.0 - certified.mean()),
        "classes": {
            name: {"id": index, "predicted": float(predicted[index]), "certified": float(kept[index])}
            for index, name in enumerate(class_names)
        },
        **_coarse_groups(certificate, kept),
        "abstains_as": IGNORE_INDEX,
        "samples": certificate.samples,
        "passes": asdict(certificate.passes),
        "seconds": certificate.seconds,
        "flags": list(certificate.flags),
    }


def _coarse_groups(certificate: Certificate, kept: np.ndarray) -> dict[str, Any]:
    """The legend of the groups of several classes; ``kept`` has the share of the image certified as each id."""
    if certificate.hierarchy is None:
        return {}
    hierarchy = Hierarchy(certificate.hierarchy)
    shares = np.pad(kept, (0, len(hierarchy.groups) - len(kept)))
    names = np.asarray(hierarchy.names[0])
    coarse = range(hierarchy.num_classes, len(hierarchy.groups))
    return {
        "groups": {
            hierarchy.groups[index]: {
                "id": index,
                "level": int(hierarchy.levels[index]),
                "certified": float(shares[index]),
                "classes": names[hierarchy.members[index].numpy()].tolist(),
            }
            for index in coarse
        }
    }
