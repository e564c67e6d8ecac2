"""Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049) for segmentation: random search without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from certseg.attacks.defence import Defence
from certseg.attacks.geometry import Ball, perturbation_norm
from certseg.attacks.objective import Smoothing
from certseg.attacks.patch_result import PatchResult
from certseg.attacks.queries import (
    Answer,
    Confirmation,
    DefendedQueries,
    NetworkQueries,
    Queries,
    SmoothedQueries,
)
from certseg.attacks.search import checked_start
from certseg.checks import check_count, check_number
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError
from certseg.patches.canvas import Corners, PatchCanvas, random_corners
from certseg.types import (
    L2,
    Attack,
    AttackResult,
    Linf,
    Patch,
    Segmenter,
    Sides,
    Threat,
    check_image,
    check_target,
    sides_of,
)

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the area of a square is halved: the paper's schedule for 10 000 of them."""
_TILES = 5  # of an l2 attack's first point, in each direction
_CELLS = (0.23, 0.04)  # sides of the cells of a composed move, in those of a square of the image's area: first and last
_REDRAWN = 0.25  # share of the cells that it redraws
_MOVES = 0.25  # share of a patch attack's queries that move a rectangle at first; none at the end


Search = Generator[tuple[Tensor, Corners], Answer, None]
"""Yields points, is sent what the network says there."""


class Cells(NamedTuple):
    """A grid of squares over an image, those at its borders cut off.

    Args:
        of: ``H x W`` int64, the number of each pixel's cell.
        number: how many there are, of which some may lie outside.
    """

    of: Tensor
    number: int

    @classmethod
    def at_random(cls, side: int, room: Sides, generator: torch.Generator, device: torch.device) -> Cells:
        """Cells of ``side`` pixels, the grid shifted at random."""
        shifts = torch.randint(side, (2,), generator=generator).tolist()
        rows, columns = ((torch.arange(full, device=device) + by) // side for full, by in zip(room, shifts))
        across = (room[1] - 1 + shifts[1]) // side + 1
        return cls(rows[:, None] * across + columns, ((room[0] - 1 + shifts[0]) // side + 1) * across)

    def sums(self, values: Tensor, reach: int) -> Tensor:
        """For each cell the sum over its pixels of what ``values`` (``H x W`` int64) holds in the square around the
        pixel that reaches so many pixels in each direction: the same on every device, since integers are added."""
        total = F.pad(values, (reach + 1, reach, reach + 1, reach)).cumsum(dim=0).cumsum(dim=1)
        width = 2 * reach + 1
        around = total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]
        return torch.zeros(self.number, dtype=torch.int64, device=values.device).index_add_(
            0, self.of.flatten(), around.flatten()
        )


Redrawn = Callable[[Tensor, Cells], Tensor]
"""Gives a point at which every cell is drawn anew, from the point there is."""


@dataclass(frozen=True)
class Square(Attack):
    """Random search: a square of the perturbation is drawn anew, and kept where fewer pixels are correct then.

    The first point is the image, the second one stripes (l-inf), tiles (l2) or a random patch. In an l-inf ball a
    square gets one of the ball's corners in each channel; in an l2 ball the mass of one square moves to another one; of
    a patch a square of the content gets one of the eight extreme colours, or a rectangle moves. Squares shrink by the
    paper's schedule. Of points with equally many correct pixels the one with the smaller mean margin is kept: how far
    the label's logit lies above the largest other.

    In a ball a composed move, which the paper does not have, takes two queries: a quarter of the cells of a random grid
    are redrawn together, then those of them alone around which fewer pixels are correct then. So one query tells of
    many cells, where a classifier's single answer tells of one square. Cells shrink evenly from 0.23 to 0.04 of the
    side of a square of the image's area.

    Nothing but the network's answers is used, so networks without
    gradient are attacked, and those that mask theirs; so are a smoothed model (:class:`SmoothedQueries`) and the answer
    of a certifier against patches (:class:`DefendedQueries`).

    Args:
        queries: points that are asked for, at least 2, beside the last question, which confirms the result. A point
            takes a forward pass, of a smoothed model ``smoothing.samples``, of a certifier as many as its answer.
        share: of the image's area (of the rectangle's, for patches) that the first squares cover.
        composed: share of the moves in a ball that are composed ones; the others redraw single squares.
        smoothing: the smoothed model that is attacked; None attacks the network itself.
        defence: the certifier whose answer is attacked, by patches; None attacks the network itself.

    Raises:
        ConfigError: an argument is outside its domain.

    >>> import certseg, torch
    >>> from certseg.types import Linf
    >>> model = torch.nn.Conv2d(3, 2, 1)
    >>> model.num_classes = 2
    >>> image, labels = torch.full((3, 4, 4), 0.5), torch.zeros(4, 4, dtype=torch.int64)
    >>> result = certseg.attack(model, image, labels, Linf(4 / 255), Square(queries=20))
    >>> result.norm <= 4 / 255, result.passes.forward <= 21
    (True, True)
    """

    queries: int = 2000
    share: float = 0.1
    composed: float = 1.0
    smoothing: Smoothing | None = None
    defence: Defence | None = None
    norms = ("linf", "l2", "patch")

    def __post_init__(self) -> None:
        check_count("attack.queries", self.queries, 2)
        check_number("attack.share", self.share, "(0, 1]")
        check_number("attack.composed", self.composed, "[0, 1]")
        for option, kind in (("smoothing", Smoothing), ("defence", Defence)):
            given = getattr(self, option)
            if given is not None and not isinstance(given, kind):
                raise ConfigError(f"attack.{option} must be null or a {kind.__name__}", received=type(given).__name__)
        if self.smoothing is not None and self.defence is not None:
            raise ConfigError(
                "An attack is on one model, a smoothed one or a certifier's answer",
                expected="attack.smoothing or attack.defence",
                received="both",
            )

    def against(self, defence: Defence) -> Square:
        """The same attack on the answer of a certifier against patches."""
        return replace(self, defence=defence)

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of the certificates it may be compared with."""
        attacked = self.smoothing or self.defence
        return attacked.predictor if attacked else "base"

    def clean(self, image: Tensor) -> Tensor:
        """The image, rounded to grey levels where the attacked model is smoothed on them."""
        return self.smoothing.clean(image) if self.smoothing else image

    def check_size(self, size: Sides, threat: Threat) -> None:
        """Raise :class:`ConfigError` if patches do not fit into an image of this height and width, or a certifier
        against patches is attacked by anything else."""
        if isinstance(threat, Patch):
            threat.size(*size)
        elif self.defence is not None:
            raise ConfigError(
                "A certifier against patches is attacked by patches", expected="attack.norm=patch", received=str(threat)
            )

    def __call__(
        self,
        segmenter: Segmenter,
        image: Tensor,
        target: Tensor,
        threat: Threat,
        *,
        stream: NoiseStream,
        hardware: Hardware,
        start: Tensor | None = None,
    ) -> AttackResult:
        """Attack one image.

        Args:
            segmenter: the network, on the hardware's device; it need not be differentiable.
            image: ``C x H x W`` in [0, 1].
            target: ``H x W`` int64 labels, 255 ignored.
            threat: an l-inf or l2 ball, or patches.
            stream: the image's own random numbers.
            hardware: the device that is computed on.
            start: a point within a ball that is visited after the image; patch attacks take none.

        Raises:
            ConfigError: the threat is of another kind, or a patch does not fit.
            DataError: the image is not in [0, 1], the target does not fit it or the model, or the start is outside.
            ModelError: NaN or infinite logits.
        """
        check_image(image, stream.name)
        check_target(target, tuple(image.shape[-2:]), segmenter.num_classes)
        self.check_size(sides_of(target), threat)
        device = hardware.torch_device
        asked = self._queries(segmenter, target.to(device), stream.for_purpose("attack"), hardware)
        generator = stream.for_purpose("square").generator(0, torch.device("cpu"))
        search = self._search(image.to(device, torch.float32), threat, generator, start)
        watch = Stopwatch(device)
        with watch("attack"), torch.no_grad():
            best = asked(*next(search))
            answer = best
            while asked.number < self.queries and best.accuracy > 0.0:
                answer = asked(*search.send(answer))
                best = min(best, answer, key=_order)
        with watch("evaluation"), torch.no_grad():
            confirmation = asked.confirmed(best)
        return self._result(best, confirmation, asked, image, threat, dict(watch.seconds))

    def _queries(self, segmenter: Segmenter, target: Tensor, stream: NoiseStream, hardware: Hardware) -> Queries:
        """Whom the search asks."""
        common = (segmenter, target, stream, hardware)
        if self.smoothing is not None:
            return SmoothedQueries(self.smoothing, *common)
        return NetworkQueries(*common) if self.defence is None else DefendedQueries(self.defence, *common)

    def _search(self, image: Tensor, threat: Threat, generator: torch.Generator, start: Tensor | None) -> Search:
        """The points to visit, one for each answer."""
        if isinstance(threat, Patch):
            if start is not None:
                raise DataError("A patch attack begins with the image, not at given ones")
            return self._patch(image, threat, generator)
        if isinstance(threat, Linf):
            return self._linf(image, threat, generator, start)
        if isinstance(threat, L2):
            return self._l2(image, threat, generator, start)
        raise ConfigError("attack=square knows other threats", expected=", ".join(self.norms), received=str(threat))

    def _side(self, query: int, area: int, longest: int) -> int:
        """The side in pixels of the square of a query."""
        halved = sum(query >= share * self.queries for share in _HALVINGS)
        side = round(math.sqrt(self.share * area / 2**halved))
        return max(1, min(longest, side))

    def _linf(self, image: Tensor, threat: Linf, generator: torch.Generator, start: Tensor | None) -> Search:
        ball, (height, width) = Ball(image, threat), sides_of(image)
        here = yield from _begun(image, threat, start)
        stripes = _signs((len(image), 1, width), generator).to(image.device).expand(-1, height, width)
        here = _better(here, (yield ball.project(image + threat.radius * stripes), ()))

        def redrawn(point: Tensor, cells: Cells) -> Tensor:
            signs = _signs((len(image), cells.number), generator).to(image.device)
            return image + threat.radius * signs[:, cells.of]

        query = 2
        while True:
            if self._is_composed(generator):
                here, query = yield from self._composed(here, redrawn, query, ball, generator)
                continue
            window = _window(self._side(query, height * width, min(height, width)), (height, width), generator)
            query += 1
            point = here.point.clone()
            point[window] = image[window] + threat.radius * _signs((len(image), 1, 1), generator).to(image.device)
            here = _better(here, (yield ball.project(point), ()))

    def _is_composed(self, generator: torch.Generator) -> bool:
        """Whether the next move is a composed one."""
        return float(torch.rand((), generator=generator)) < self.composed

    def _composed(
        self, here: Answer, redrawn: Redrawn, query: int, ball: Ball, generator: torch.Generator
    ) -> Generator[tuple[Tensor, Corners], Answer, tuple[Answer, int]]:
        """Two queries: some cells of a random grid are redrawn together, then those of them alone around which fewer
        pixels are correct then. Returns the best point and the number of the next query."""
        room = sides_of(here.point)
        first, last = _CELLS
        share = min(1.0, query / self.queries)
        side = max(1, round(first * (last / first) ** share * math.sqrt(room[0] * room[1])))
        cells = Cells.at_random(side, room, generator, here.point.device)
        drawn = (torch.rand(cells.number, generator=generator) < _REDRAWN).to(here.point.device)
        new = redrawn(here.point, cells)
        tried = yield ball.project(torch.where(drawn[cells.of], new, here.point)), ()
        kept = drawn & (cells.sums(here.correct.long() - tried.correct.long(), side // 2) > 0)
        best = _better(here, tried)
        if not bool(kept.any()) or torch.equal(kept, drawn):
            return best, query + 1
        found = yield ball.project(torch.where(kept[cells.of], new, here.point)), ()
        return _better(best, found), query + 2

    def _l2(self, image: Tensor, threat: L2, generator: torch.Generator, start: Tensor | None) -> Search:
        ball, (height, width) = Ball(image, threat), sides_of(image)
        here = yield from _begun(image, threat, start)
        delta = torch.zeros_like(image)
        side = max(1, min(height, width) // _TILES)
        for top in range(0, height - side + 1, side):
            for left in range(0, width - side + 1, side):
                tile = _bump(side, generator).to(image.device) * _signs((len(image), 1, 1), generator).to(image.device)
                delta[:, top : top + side, left : left + side] = tile
        here = _better(here, (yield ball.project(image + delta * (threat.radius / delta.norm())), ()))

        def redrawn(point: Tensor, cells: Cells) -> Tensor:
            squares = (point - image).square().sum(dim=0).double().cpu()  # where sums of floats are always the same
            unused = max(0.0, threat.radius**2 - float(squares.sum()))
            of = cells.of.flatten().cpu()
            area = torch.bincount(of, minlength=cells.number).clamp_min(1)
            mass = torch.zeros(cells.number, dtype=torch.float64)
            mass.index_add_(0, of, squares.flatten() + unused / squares.numel())
            colours = _signs((len(image), cells.number), generator) * (mass / (len(image) * area)).sqrt()
            return image + colours.to(image)[:, cells.of]

        query = 2
        while True:
            if self._is_composed(generator):
                here, query = yield from self._composed(here, redrawn, query, ball, generator)
                continue
            side = self._side(query, height * width, min(height, width))
            query += 1
            into, out = (_window(side, (height, width), generator) for _ in range(2))
            delta = here.point - image
            unused = max(0.0, threat.radius**2 - float(delta.square().sum()))
            both = torch.zeros_like(delta[0], dtype=torch.bool)
            both[into[1:]] = True
            both[out[1:]] = True
            mass = (delta.square() * both).sum(dim=(1, 2), keepdim=True) + unused / len(image)
            kept = delta[into] / delta[into].norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
            new = (
                _bump(side, generator).to(image.device) * _signs((len(image), 1, 1), generator).to(image.device) + kept
            )
            delta[out] = 0.0
            delta[into] = new * (mass.sqrt() / new.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12))
            here = _better(here, (yield ball.project(image + delta), ()))

    def _patch(self, image: Tensor, threat: Patch, generator: torch.Generator) -> Search:
        room = sides_of(image)
        height, width = size = threat.size(*room)
        yield image, ()  # any painted point is worth more to the search, however it does
        corners = random_corners(threat.count, room, size, generator)
        content = (_signs((threat.count, len(image), 1, width), generator).expand(-1, -1, height, -1) > 0).to(image)
        here = yield PatchCanvas(image, size, corners).paint(content), corners
        for query in range(2, self.queries + 1):
            left = 1.0 - query / self.queries
            new_corners, new_content = list(corners), content.clone()
            which = int(torch.randint(threat.count, (), generator=generator))
            if float(torch.rand((), generator=generator)) < _MOVES * left:
                new_corners[which] = _moved(corners[which], room, size, left, generator)
            else:
                window = _window(self._side(query, height * width, min(height, width)), size, generator)
                new_content[which][window] = (_signs((len(image), 1, 1), generator) > 0).to(image)
            painted = PatchCanvas(image, size, tuple(new_corners)).paint(new_content)
            found = yield painted, tuple(new_corners)
            if _order(found) < _order(here):
                here, corners, content = found, tuple(new_corners), new_content

    def _result(
        self,
        best: Answer,
        confirmation: Confirmation,
        asked: Queries,
        image: Tensor,
        threat: Threat,
        seconds: dict[str, float],
    ) -> AttackResult:
        adversarial, original = best.point.cpu().clone(), image.cpu()
        changed = float((adversarial != original).any(dim=0).double().mean())
        found = AttackResult(
            adversarial=adversarial,
            prediction=confirmation.prediction.cpu(),
            threat=threat,
            predictor=self.predictor,
            norm=changed if isinstance(threat, Patch) else perturbation_norm(adversarial, original, threat),
            votes=confirmation.votes,
            num_votes=self.smoothing.votes if self.smoothing else 0,
            passes=asked.passes,
            seconds=seconds,
            flags=confirmation.flags,
        )
        if not isinstance(threat, Patch):
            return found
        size = threat.size(*sides_of(image))
        return PatchResult(**vars(found), alerts=confirmation.alerts, patch=size, corners=best.corners)


def _begun(image: Tensor, threat: Linf | L2, start: Tensor | None) -> Generator[tuple[Tensor, Corners], Answer, Answer]:
    """The image, and a start that is given."""
    here = yield image, ()
    if start is None:
        return here
    begin = checked_start(start.to(image), image, threat)
    return _better(here, (yield begin, ()))


def _order(answer: Answer) -> tuple[float, float]:
    """Better is smaller: fewer correct pixels, then less margin, for with one square the first hardly ever changes."""
    return answer.accuracy, answer.margin


def _better(here: Answer, found: Answer) -> Answer:
    """The better one, the first of equals."""
    return found if _order(found) < _order(here) else here


def _window(side: int, room: Sides, generator: torch.Generator) -> tuple[slice, slice, slice]:
    """A square at random, cut off at no border."""
    height, width = min(side, room[0]), min(side, room[1])
    top, left = (
        int(torch.randint(full - part + 1, (), generator=generator)) for full, part in zip(room, (height, width))
    )
    return slice(None), slice(top, top + height), slice(left, left + width)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Entries that are 1 or -1."""
    signs: Tensor = torch.randint(2, shape, generator=generator).float() * 2.0 - 1.0
    return signs


def _bump(side: int, generator: torch.Generator) -> Tensor:
    """The paper's pattern of an l2 square, ``side x side`` of norm 1: two halves of opposite sign, each larger towards
    its middle; lying or upright."""
    first = side // 2
    bump = torch.zeros(side, side)
    for rows, sign in ((slice(0, first), 1.0), (slice(first, side), -1.0)):
        height = bump[rows].shape[0]
        if height:
            to_border = torch.minimum(_from_ends(height)[:, None], _from_ends(side)[None])
            steps = 1.0 / torch.arange(int(to_border.max()) + 1, 0, -1).double().square()
            bump[rows] = sign * steps.cumsum(0)[to_border.long()].float()
    bump = bump / bump.norm()
    is_upright = bool(torch.randint(2, (), generator=generator))
    turned: Tensor = bump.T
    return turned if is_upright else bump


def _from_ends(length: int) -> Tensor:
    places = torch.arange(length)
    return torch.minimum(places, length - 1 - places)


def _moved(
    corner: tuple[int, int], room: Sides, size: Sides, left: float, generator: torch.Generator
) -> tuple[int, int]:
    """A corner moved by at most the share ``left`` of the room it has in each direction."""
    moved = []
    for place, full, part in zip(corner, room, size):
        reach = max(1, round(left * (full - part)))
        step = int(torch.randint(-reach, reach + 1, (), generator=generator))
        moved.append(min(max(place + step, 0), full - part))
    return moved[0], moved[1]
