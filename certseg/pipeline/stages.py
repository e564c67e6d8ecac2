"""The stages of a run: clean prediction, certifier and attack, each with the settings that decide its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from certseg.bracket import Comparison
from certseg.checks import check_word, is_number
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.evaluation import AttackStage, CertificationStage, MinimumNormStage, PredictionStage, region_test_of
from certseg.pipeline import earlier_keys
from certseg.pipeline.keys import attack_identity, file_digest
from certseg.pipeline.names import CLASS, foreign_parts
from certseg.pipeline.places import Superseded
from certseg.pipeline.settings import build
from certseg.pipeline.spec import AttackSpec, CertifierSpec, MetricsSpec, RunSpec, SmoothingSpec
from certseg.pipeline.suggestions import meant
from certseg.pipeline.weights import legend_of, load_surrogate
from certseg.types import (
    THREATS,
    Attack,
    Attempt,
    Certifier,
    NormBall,
    Patch,
    Segmenter,
    SmallestAttack,
    Stage,
    Store,
    Threat,
    Vanish,
)

VANISH = "vanish"
"""The value of ``attack.goal`` with which objects of ``attack.classes`` are to vanish. A class of that name is chosen
by its number."""
_TOLD = ("patch", "against", "threat")  # nested settings that threat and predictor tell of


@dataclass(frozen=True)
class Job:
    """A stage and what decides its rows.

    Args:
        stage: computes the rows.
        identity: what decides the rows on given weights and data, in plain values.
        is_sampled: whether the rows depend on random numbers.
        earlier: the identity as keys of earlier versions held it; None where that is not known.
        draws_on_device: whether the random numbers depend on the kind of device.
        superseded: what took its place under other rules, its identity as ``settings``.
    """

    stage: Stage
    identity: dict[str, Any]
    is_sampled: bool
    earlier: dict[str, Any] | None
    draws_on_device: bool = True
    superseded: tuple[Superseded, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Certifier and attack of a run, built and checked before anything is computed.

    Args:
        certifier: the certifier; None for none.
        attack: the attack; None for none.
        threat: the attack's budget, the largest one if there are several; None without an attack, and for one that
            looks for the smallest perturbation.
        spec: what the run is to do.
        radii: smaller radii to attack at as well, ascending.
    """

    certifier: Certifier | None
    attack: Attack | SmallestAttack | None
    threat: Threat | None
    spec: RunSpec
    radii: tuple[float, ...] = ()

    @classmethod
    def of(cls, spec: RunSpec) -> Plan:
        """Build certifier and attack.

        Raises:
            ConfigError: an argument is outside its domain, or the attack has no threat.
        """
        certifier = None
        if spec.certifier is not None:
            extra = {"class_names": legend_of(spec).class_names} if "hierarchy" in spec.certifier.arguments else {}
            certifier = _checked_kind("certifier", build("certifier", spec.certifier, **extra), Certifier)
            check_word("certifier.name", certifier.name)
            region_test_of(certifier, spec.metrics.of_objects)
        settings = spec.attack
        if settings is None:
            return cls(certifier, None, None, spec)
        arguments = dict(settings.arguments)
        if isinstance(goal := arguments.get("goal"), str | int) and not isinstance(goal, bool):
            arguments["goal"] = _goal(goal, arguments, legend_of(spec).class_names)
        built = build("attack", replace(settings, arguments=arguments))
        attack: Attack | SmallestAttack = _checked_kind("attack", built, Attack, SmallestAttack)
        norm = settings.norm or next(iter(attack.norms), "")
        if settings.surrogate:
            file_digest(settings.surrogate, "attack.surrogate")  # if it cannot be read, that is found now
        _check_norm(norm, attack.norms)
        if isinstance(attack, SmallestAttack):
            _check_unbounded(settings)
            return cls(certifier, attack, None, spec)
        if settings.defence:
            attack = attack.against(build("attack.defence", settings.defence, certifier=certifier))
        if norm == Patch.norm:
            return cls(certifier, attack, _patch(settings, certifier), spec)
        radii, radius = _radii(settings.radius, attack.predictor)
        threat = _threat(norm, radius, certifier)
        return cls(certifier, attack, threat, spec, radii)

    def check(self, size: tuple[int, int]) -> None:
        """Raise ConfigError if the certifier could never certify a pixel of an image of this height and width, or the
        attack's patches do not lie in it."""
        if self.certifier is not None:
            self.certifier.check_size(size)
        if isinstance(self.attack, Attack) and self.threat is not None:
            self.attack.check_size(size, self.threat)

    @property
    def obstacle(self) -> str:
        """Why certificates and attack of this run will not be compared, known before anything is computed; empty where
        they will be, or there are not both."""
        if self.certifier is None or self.attack is None or self.spec.attack is None:
            return ""
        predictor, threat = self.attack.predictor, self.threat
        attempt = Attempt.unbounded(predictor, self.attack.norms) if threat is None else Attempt(predictor, threat)
        obstacle = Comparison.of(self.certifier.guarantee, attempt).obstacle
        return obstacle and f"{self.spec.attack.name} is not compared with {self.certifier.name}: {obstacle}."

    @property
    def samples_identity(self) -> Mapping[str, Any] | None:
        """What decides the samples of the certifier, None where there are none to keep."""
        sampling = None if self.certifier is None else self.certifier.sampling()
        if sampling is None or self.spec.certifier is None:
            return None
        return {**sampling.samples_identity, **_foreign(self.spec.certifier)}

    def before(self) -> list[tuple[Plan, str, str]]:
        """The same plan as it was, or would be, under other rules, with what is told of its results and how they are
        used: floating point noise, and of several tau that are tested together the largest alone."""
        spec, arguments = self.spec, {} if self.spec.certifier is None else self.spec.certifier.arguments
        float_noise, tau = self._by_float_noise(), arguments.get("tau")
        specs = []
        if float_noise != spec:
            specs.append((float_noise, "is the same by floating point noise", "certifier.grey_levels=null uses it."))
        certifier = float_noise.certifier
        if certifier is not None and "grey_levels" in arguments and isinstance(tau, list | tuple) and len(tau):
            largest = max(tau)
            single = replace(certifier, arguments={**certifier.arguments, "tau": largest})
            words = "by floating point noise, at its largest radius alone," if float_noise != spec else "alone,"
            remedy = f"certifier.grey_levels=null and certifier.tau={largest:g} use it."
            specs.append((replace(float_noise, certifier=single), f"is the same {words}", remedy))
        return [(Plan.of(other), told, remedy) for other, told, remedy in specs]

    def _by_float_noise(self) -> RunSpec:
        """The same settings with floating point noise, equal to these where there is no other."""
        certifier, attack = self.spec.certifier, self.spec.attack
        arguments = {} if certifier is None else certifier.arguments
        smoothing = None if attack is None else attack.smoothing
        if certifier is not None and arguments.get("grey_levels") is not None:
            certifier = replace(certifier, arguments={**arguments, "grey_levels": None})
        if attack is not None and isinstance(smoothing, SmoothingSpec) and isinstance(smoothing.grey_levels, int):
            attack = replace(attack, smoothing=replace(smoothing, grey_levels=None))
        return replace(self.spec, certifier=certifier, attack=attack)

    def jobs(
        self,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        hardware: Hardware,
        samples: Store | None = None,
        pictured: Collection[str] | None = None,
    ) -> list[Job]:
        """The stages, in the order in which they run.

        Arguments are those of :meth:`_jobs`.
        """
        jobs = self._jobs(segmenter, class_names, hardware, samples, pictured)
        found: list[list[Superseded]] = [_by_earlier_rules(job.identity) for job in jobs]
        for other, told, remedy in self.before():
            for job, theirs, known in zip(jobs, other._jobs(None, class_names, hardware), found, strict=True):
                if theirs.identity != job.identity and all(theirs.identity != one.settings for one in known):
                    known.append(Superseded(theirs.identity, told, remedy))
                    known += _by_earlier_rules(theirs.identity)
        return [replace(job, superseded=tuple(known)) for job, known in zip(jobs, found)]

    def _jobs(
        self,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        hardware: Hardware,
        samples: Store | None = None,
        pictured: Collection[str] | None = None,
    ) -> list[Job]:
        """The stages, without what they superseded.

        Args:
            segmenter: the network; None for stages that only summarise rows that are there already.
            class_names: the names of the data set's classes, in the order of their ids.
            hardware: where and how tensors are computed.
            samples: where the certifier's samples are kept; None to keep none.
            pictured: names of the images whose further maps are kept, such as the adversarial image; None for all.
        """
        seed, objects = self.spec.seed, self.spec.metrics.of_objects
        has_objects, asked = bool(objects.classes), self._objects_identity
        prediction = {"prediction": True} | asked
        first = PredictionStage(segmenter, class_names, hardware, with_objects=has_objects)
        jobs = [Job(first, prediction, False, prediction)]
        if self.certifier is not None:
            stage = CertificationStage(
                self.certifier,
                segmenter,
                class_names,
                seed=seed,
                hardware=hardware,
                samples=samples,
                pictured=pictured,
                objects=objects if has_objects else None,
            )
            identity = _certifier_identity(self.certifier, self.spec.certifier)
            identity |= {"objects_share": objects.share} if has_objects else {}
            if has_objects and objects.samples:
                tested = {"classes": sorted(objects.classes), "minimum": objects.minimum, "samples": objects.samples}
                identity |= {"objects_test": tested}
            is_sampled, draws_on_device = self.certifier.is_sampled, self.certifier.draws_on_device
            earlier = identity if self.certifier.revision == 1 else None
            jobs.append(Job(stage, identity, is_sampled, earlier, draws_on_device))
        if self.attack is not None and self.spec.attack is not None:
            jobs.append(self._attack_job(self.attack, self.spec.attack, segmenter, class_names, hardware, pictured))
        return jobs

    def _attack_job(
        self,
        attack: Attack | SmallestAttack,
        settings: AttackSpec,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        hardware: Hardware,
        pictured: Collection[str] | None,
    ) -> Job:
        spec = self.spec
        told: dict[str, Any] = {}
        if isinstance(self.threat, Patch):
            told = {"patch": self.threat.to_json(), "radius": None}
            if settings.defence and self.certifier is not None:
                told["against"] = _certifier_identity(self.certifier, self.spec.certifier)
        elif isinstance(self.threat, NormBall):
            told = {"norm": self.threat.norm, "radius": self.threat.radius}
            told |= {"radius": [*self.radii, self.threat.radius]} if self.radii else {}
        elif self.threat is not None:  # of another kind: its fields could be called like arguments of the attack
            told = {"threat": self.threat.to_json()}
        if attack.num_votes:
            told["lost"] = "shown by votes"  # rows from before counted every pixel that was outvoted
        identity = attack_identity(settings) | {"norm": settings.norm or next(iter(attack.norms), "")} | told
        composed, surrogate = spec.settings_of_earlier, identity.get("surrogate")
        known = composed is not None and not attack.num_votes and not spec.metrics.objects
        earlier = earlier_keys.attack_identity(composed or {}, surrogate) | told if known else None
        if settings.surrogate and segmenter is not None:
            network = load_surrogate(spec.model, settings.surrogate, legend_of(spec), hardware)
            attack = attack.with_surrogate(network)
        shown, seed = _shown(identity), spec.seed
        identity |= self._objects_identity
        if isinstance(attack, SmallestAttack):
            smallest = MinimumNormStage(
                settings.name,
                attack,
                segmenter,
                class_names,
                settings=shown,
                seed=seed,
                hardware=hardware,
                pictured=pictured,
                with_objects=bool(spec.metrics.objects),
            )
            return Job(smallest, identity, False, earlier)
        stage = AttackStage(
            settings.name,
            attack,
            self._budget(settings),
            segmenter,
            class_names,
            settings=shown,
            seed=seed,
            hardware=hardware,
            radii=self.radii,
            pictured=pictured,
            with_objects=bool(spec.metrics.objects),
        )
        return Job(stage, identity, True, earlier)

    @property
    def _objects_identity(self) -> dict[str, Any]:
        """That rows tell of labelled objects, as a part of what decides them; nothing where they do not."""
        return {"objects": True} if self.spec.metrics.objects else {}

    def _budget(self, settings: AttackSpec) -> Threat:
        """The threat of an attack that needs one.

        Raises:
            ConfigError: the plan was made without.
        """
        if self.threat is None:
            raise ConfigError(f"attack={settings.name} has no threat", remedy="Make the plan by Plan.of")
        return self.threat


def _shown(identity: Mapping[str, Any]) -> dict[str, int | float | str]:
    """What tables show of an attack's settings: those of nested groups under ``group.name``, without its class and the
    threat, which have columns of their own."""
    groups = {name: part for name, part in identity.items() if isinstance(part, dict)}
    nested = {f"{group}.{k}": v for group, part in groups.items() if group not in _TOLD for k, v in part.items()}
    plain = {k: v for k, v in {**identity, **nested}.items() if isinstance(v, int | float | str)}
    hidden = ("attack", "norm", "radius", "lost")
    return {k: v for k, v in plain.items() if k not in hidden and k.rpartition(".")[2] != CLASS}


_EARLIER_RULES = {
    "revision": "is by an earlier rule of its certifier",
    "lost": "counts pixels as lost that were merely outvoted",
}
"""What is told of results whose identity lacks one of these entries."""


def _by_earlier_rules(identity: Mapping[str, Any]) -> list[Superseded]:
    """The results of a stage under rules from before these entered its identity."""
    return [
        Superseded({name: value for name, value in identity.items() if name != rule}, told)
        for rule, told in _EARLIER_RULES.items()
        if rule in identity
    ]


def _certifier_identity(certifier: Certifier, settings: CertifierSpec | None) -> dict[str, Any]:
    """What decides a certifier's rows: not the settings that its other settings switch off, but the source of whatever
    in it is not certseg's own.

    Raises:
        ConfigError: the source of a part that is not certseg's own cannot be read.
    """
    identity = {"certifier": certifier.name, "predictor": certifier.predictor, **certifier.settings}
    if certifier.revision > 1:
        identity["revision"] = certifier.revision
    if certifier.guarantee.hierarchy:
        identity["hierarchy"] = certifier.guarantee.hierarchy  # its text leaves out the order
    return identity if settings is None else {**identity, **_foreign(settings)}


def _foreign(settings: CertifierSpec) -> dict[str, Any]:
    """The part of an identity that tells the source of what is not certseg's own; nothing where all of it is."""
    found = foreign_parts({"_target_": settings.target, **settings.arguments})
    return {"foreign_parts": found} if found else {}


def _checked_kind(group: str, made: Any, *contracts: type) -> Any:
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


def _check_unbounded(settings: AttackSpec) -> None:
    """Raise ConfigError if a radius is asked of an attack that looks for the smallest perturbation."""
    if settings.radius is not None:
        raise ConfigError(
            f"attack={settings.name} looks for the smallest perturbation and takes no attack.radius",
            received=settings.radius,
            remedy="Leave it out, or choose attack=pgd or attack=sea",
        )


def _check_norm(norm: str, norms: Sequence[str]) -> None:
    if not isinstance(norms, tuple) or not norms:
        raise ConfigError(
            "An attack's norms must be a tuple of kinds of threat", expected='("linf",)', received=repr(norms)
        )
    if norm not in norms:
        raise ConfigError("attack.norm is not one this attack knows", expected=", ".join(norms), received=norm)


def _patch(settings: AttackSpec, certifier: Certifier | None) -> Patch:
    """The patches of ``attack.patch``, or where it says nothing those of the certifier."""
    if settings.radius is not None:
        raise ConfigError(
            f"attack={settings.name} paints patches and takes no attack.radius",
            received=settings.radius,
            remedy="Set attack.patch.share, or attack.patch.height and attack.patch.width",
        )
    given = {name: value for name, value in settings.patch.items() if value is not None}
    if given:
        return Patch(**given)
    if certifier is None or not isinstance(certifier.threat, Patch):
        raise ConfigError(
            "attack.patch has no size and there is no certificate against patches to take it from",
            remedy="Set attack.patch.share, for example attack.patch.share=0.01, or choose certifier=demasked_recovery",
        )
    return certifier.threat


def check_chosen_classes(metrics: MetricsSpec, class_names: Sequence[str]) -> None:
    """Raise ConfigError unless the settings that choose classes for figures name classes of the data set, each once."""
    for setting, chosen in (("metrics.focus", metrics.focus), ("metrics.objects", metrics.objects)):
        for name in chosen:
            if name not in class_names:
                raise ConfigError(
                    f"{setting} names no class of the data set: {name}",
                    expected=", ".join(class_names),
                    remedy=meant(name, class_names).strip() or None,
                )
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"{setting} names a class twice", received=", ".join(chosen))


def _goal(goal: str | int, arguments: dict[str, Any], class_names: Sequence[str]) -> int | dict[str, Any]:
    """What ``attack.goal`` asks for, as :func:`build` takes it. The classes of objects that are to vanish,
    ``attack.classes``, are taken out of the arguments: they are part of the goal.

    Raises:
        ConfigError: a class is none of the data set, or objects are to vanish of no class.
    """
    if goal != VANISH:
        return _class_number("attack.goal", goal, class_names)
    classes = arguments.pop("classes", None)
    if not isinstance(classes, list | None):
        raise ConfigError("attack.classes must be a list of classes", received=classes)
    numbers = [_class_number("attack.classes", name, class_names) for name in classes or ()]
    return {"_target_": f"{Vanish.__module__}.{Vanish.__qualname__}", "classes": list(Vanish(numbers).classes)}


def _class_number(setting: str, goal: str | int, class_names: Sequence[str]) -> int:
    """The number of a class, which is given by its name or as it is."""
    if isinstance(goal, int) and 0 <= goal < len(class_names):
        return goal
    if goal not in class_names:
        raise ConfigError(
            f"{setting} is no class of the data set",
            expected=f"{', '.join(class_names)}, or a number from 0 to {len(class_names) - 1}",
            received=goal,
            remedy=meant(str(goal), class_names).strip() or None,
        )
    return list(class_names).index(str(goal))


def _radii(radius: Any, predictor: str) -> tuple[tuple[float, ...], Any]:
    """The smaller radii, ascending, and the largest one; for a single radius none and itself."""
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
            remedy="Set attack.radius, for example attack.radius=4/255; a choice of your own names it in its YAML",
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
    if norm == "linf" and is_number(radius) and radius > 1:
        raise ConfigError(
            "attack.radius is on the [0, 1] image scale, and no perturbation of an l-inf norm above 1 fits into it",
            expected="at most 1",
            received=radius,
            remedy=f"Write attack.radius={radius:g}/255 if 8-bit values are meant",
        )
    return THREATS[norm](radius)
