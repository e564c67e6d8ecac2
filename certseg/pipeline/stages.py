"""The stages of a run: clean prediction, certifier, attack, each with the settings that decide its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from certseg.checks import is_number
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.evaluation import AttackStage, CertificationStage, MinimumNormStage, PredictionStage
from certseg.pipeline.keys import pruned
from certseg.pipeline.settings import build, chosen
from certseg.pipeline.weights import legend_of, load_surrogate, surrogate_digest
from certseg.types import THREATS, Attack, Certifier, Patch, SmallestAttack, Stage, Store, Threat

_NO_ARGUMENTS = ("name", "norm", "radius", "surrogate", "patch", "defence")  # what is no argument of an attack as it is
_TOLD = ("patch", "against")  # nested settings that threat and predictor tell of


@dataclass(frozen=True)
class Job:
    """A stage, what decides its rows, and whether those depend on random numbers."""

    stage: Stage
    identity: dict[str, Any]
    is_sampled: bool


@dataclass(frozen=True)
class Plan:
    """Certifier and attack of a run, built and checked before anything is computed.

    Args:
        certifier: or None.
        attack: called with model, image, labels and, if there is one, threat; or None.
        threat: the attack's budget, the largest one if there are several; None without an attack, and for one that
            looks for the smallest perturbation.
        settings: of the run.
        radii: smaller radii to attack at as well.
    """

    certifier: Certifier | None
    attack: Attack | SmallestAttack | None
    threat: Threat | None
    settings: Mapping[str, Any]
    radii: tuple[float, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Plan:
        """Build certifier and attack.

        Raises:
            ConfigError: an argument is outside its domain, or the attack has no threat.
        """
        certifier = None
        if chosen(settings, "certifier"):
            extra = {"class_names": legend_of(settings).class_names} if "hierarchy" in settings["certifier"] else {}
            certifier = checked_kind("certifier", build("certifier", settings["certifier"], **extra), Certifier)
        if not chosen(settings, "attack"):
            return cls(certifier, None, None, settings)
        options = {k: v for k, v in settings["attack"].items() if k not in _NO_ARGUMENTS}
        if isinstance(options.get("goal"), str):
            options["goal"] = _class_number(options["goal"], legend_of(settings).class_names)
        attack: Attack | SmallestAttack = checked_kind("attack", build("attack", options), Attack, SmallestAttack)
        norm = settings["attack"].get("norm") or next(iter(attack.norms), "")
        if settings["attack"].get("surrogate"):
            surrogate_digest(settings)  # a file that cannot be read is found before anything is trained
        if not attack.has_budget:
            _check_unbounded(settings["attack"], attack, norm)
            return cls(certifier, attack, None, settings)
        if settings["attack"].get("defence"):
            attack = attack.against(build("attack.defence", settings["attack"]["defence"], certifier=certifier))
        _check_norm(norm, attack.norms)
        if norm == Patch.norm:
            return cls(certifier, attack, _patch(settings["attack"], certifier), settings)
        radii, radius = _radii(settings["attack"].get("radius"), attack.predictor)
        threat = _threat(norm, radius, certifier)
        return cls(certifier, attack, threat, settings, radii)

    def check(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if the certifier could never certify a pixel of an image of this height and width, or the
        attack's patches do not lie in it."""
        if self.certifier is not None:
            self.certifier.check_size(size)
        if isinstance(self.attack, Attack) and self.threat is not None:
            self.attack.check_size(size, self.threat)

    @property
    def samples_identity(self) -> Mapping[str, Any] | None:
        """What decides the samples of the certifier, None where there are none to keep."""
        sampling = None if self.certifier is None else self.certifier.sampling()
        return None if sampling is None else sampling.samples_identity

    def jobs(
        self,
        segmenter: nn.Module | None,
        class_names: Sequence[str],
        hardware: Hardware,
        samples: Store | None = None,
        pictured: Collection[str] | None = None,
    ) -> list[Job]:
        """The stages, in the order in which they run; without a segmenter they can summarise but not compute.
        ``samples`` is where the certifier's samples are kept, ``pictured`` the images whose adversarial image and
        map of radii are (None for all)."""
        seed = self.settings["seed"]
        jobs = [Job(PredictionStage(segmenter, class_names, hardware), {"prediction": True}, False)]
        if self.certifier is not None:
            stage = CertificationStage(
                self.certifier,
                segmenter,
                class_names,
                seed=seed,
                hardware=hardware,
                samples=samples,
                pictured=pictured,
            )
            jobs.append(Job(stage, self._certifier_identity(), self.certifier.is_sampled))
        if self.attack is not None:
            jobs.append(self._attack_job(segmenter, class_names, hardware, pictured))
        return jobs

    def _certifier_identity(self) -> dict[str, Any]:
        """What decides a certifier's rows: not the settings that its other settings switch off."""
        identity = {"certifier": self.certifier.name, "predictor": self.certifier.predictor, **self.certifier.settings}
        if self.certifier.guarantee.hierarchy:
            identity["hierarchy"] = self.certifier.guarantee.hierarchy  # its text leaves out the order
        return identity

    def _attack_job(
        self,
        segmenter: nn.Module | None,
        class_names: Sequence[str],
        hardware: Hardware,
        pictured: Collection[str] | None,
    ) -> Job:
        identity = pruned(self.settings, "attack")
        if isinstance(self.threat, Patch):
            identity |= {"patch": self.threat.to_json(), "radius": None}
            if self.settings["attack"].get("defence"):
                identity["against"] = self._certifier_identity()
        elif self.threat is not None:
            told = self.threat.to_json()
            identity |= told | ({"radius": [*self.radii, told["radius"]]} if self.radii else {})
        attack = self.attack
        if identity.get("surrogate"):
            identity["surrogate"] = surrogate_digest(self.settings)
            if segmenter is not None:
                attack = attack.with_surrogate(load_surrogate(self.settings, len(class_names), hardware))
        groups = {name: part for name, part in identity.items() if isinstance(part, dict)}
        nested = {f"{group}.{k}": v for group, part in groups.items() if group not in _TOLD for k, v in part.items()}
        shown = {
            k: v for k, v in (identity | nested).items() if isinstance(v, int | float | str) and "_target_" not in k
        }
        name = self.settings["attack"]["name"]
        options = {
            "settings": {k: v for k, v in shown.items() if k not in ("norm", "radius")},
            "seed": self.settings["seed"],
            "hardware": hardware,
            "pictured": pictured,
        }
        if self.threat is None:
            return Job(MinimumNormStage(name, attack, segmenter, class_names, **options), identity, False)
        stage = AttackStage(name, attack, self.threat, segmenter, class_names, radii=self.radii, **options)
        return Job(stage, identity, True)


def checked_kind(group: str, made: Any, *contracts: type) -> Any:
    """``made`` if it derives from one of the contracts that choices of a config group must fulfil.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(made, contracts):
        return made
    names = " or ".join(f"certseg.types.{contract.__name__}" for contract in contracts)
    raise ConfigError(
        f"What {group}._target_ names is no {group}",
        expected=f"a class that derives from {names}",
        received=f"{type(made).__module__}.{type(made).__qualname__}",
        remedy="The docstring of that class says what it must have; docs/own_parts.md shows one in full",
    )


def _check_unbounded(settings: Mapping[str, Any], attack: SmallestAttack, norm: str) -> None:
    """Raise ConfigError if a radius or another norm is asked of an attack that looks for the smallest perturbation."""
    if settings.get("radius") is not None:
        raise ConfigError(
            f"attack={settings['name']} looks for the smallest perturbation and takes no attack.radius",
            received=settings["radius"],
            remedy="Leave it out, or choose attack=pgd or attack=sea",
        )
    _check_norm(norm, attack.norms)


def _check_norm(norm: str, norms: Sequence[str]) -> None:
    if norm not in norms:
        raise ConfigError("attack.norm is not one this attack knows", expected=", ".join(norms), received=norm)


def _patch(settings: Mapping[str, Any], certifier: Certifier | None) -> Patch:
    """The patches of ``attack.patch``, or where it says nothing those of the certifier."""
    if settings.get("radius") is not None:
        raise ConfigError(
            f"attack={settings['name']} paints patches and takes no attack.radius",
            received=settings["radius"],
            remedy="Set attack.patch.share, or attack.patch.height and attack.patch.width",
        )
    given = {name: value for name, value in (settings.get("patch") or {}).items() if value is not None}
    if given:
        return Patch(**given)
    if certifier is None or not isinstance(certifier.threat, Patch):
        raise ConfigError(
            "attack.patch has no size and there is no certificate against patches to take it from",
            remedy="Set attack.patch.share, for example attack.patch.share=0.01, or choose certifier=demasked_recovery",
        )
    return certifier.threat


def _class_number(name: str, class_names: Sequence[str]) -> int:
    """The number of a class."""
    if name not in class_names:
        raise ConfigError("attack.goal names no class of the data set", expected=", ".join(class_names), received=name)
    return list(class_names).index(name)


def _radii(radius: Any, predictor: str) -> tuple[tuple[float, ...], Any]:
    """The smaller radii of a list, ascending, and the largest; a single radius as it is."""
    if not isinstance(radius, list):
        return (), radius
    are_numbers = all(is_number(value) for value in radius)
    if not are_numbers or len(set(radius)) < len(radius) or not radius or min(radius) < 0 or max(radius) == 0:
        raise ConfigError(
            "attack.radius must be a radius or a list of different ones, of which one may be 0", received=radius
        )
    if 0 in radius and predictor != "base":
        raise ConfigError(
            f"attack.radius cannot be 0 for an attack on {predictor}",
            remedy="Leave it out: its certificate has the prediction of the smoothed model",
        )
    return tuple(sorted(radius)[:-1]), max(radius)


def _threat(norm: str, radius: Any, certifier: Certifier | None) -> Threat:
    if radius is not None:
        return _ball(norm, radius)
    if certifier is None or certifier.threat.norm != norm:
        raise ConfigError(
            f"attack.radius is not set and there is no {norm} certificate to take it from",
            remedy="Set attack.radius, for example attack.radius=4/255",
        )
    return certifier.threat


def _ball(norm: str, radius: Any) -> Threat:
    """The ball of a radius, in a norm that certseg knows."""
    if norm not in THREATS:
        raise ConfigError(
            f"attack.radius cannot be given for threats of kind {norm}",
            expected=", ".join(THREATS),
            remedy="Leave it out: the threat of the certificate is attacked",
        )
    return THREATS[norm](radius)
