"""Comparing summaries and rows that tests make by hand."""

from certseg import bracket
from certseg.bracket import Comparison
from certseg.types import Attempt, Guarantee, Promise, threat_of


class Maps(dict):
    """Maps of images by name."""

    def load_map(self, name):
        return self[name]


class Stored:
    """Rows by image, with maps by image."""

    def __init__(self, rows, maps=None):
        self.rows, self.maps = rows, maps or {}

    def read(self):
        return self.rows

    def load_map(self, name):
        return self.maps.get(name, {})


def comparison_of(certifier, attack):
    """The comparison of two summaries, as they lie on disk."""
    guarantee = Guarantee.from_json(certifier.get("guarantee") or {})
    subjects = (certifier.get("subject"), attack.get("subject"))
    names = (str(certifier.get("name")), str(attack.get("name")))
    return Comparison.of(guarantee, Attempt.of_summary(attack), names=names, subjects=subjects)


def certified(name, predictor, threat, confidence=1.0, promise=Promise.EVERY_PIXEL, **details):
    """The part of a certifier's summary that says what is promised; ``threat`` as in a summary."""
    guarantee = Guarantee(promise, predictor, threat_of(threat), confidence, **details)
    return {
        "name": name,
        "predictor": predictor,
        "threat": threat,
        "confidence": confidence,
        "guarantee": guarantee.to_json(),
    }


def changed(summary, **fields):
    """A certifier's summary with other fields of its guarantee, which its own follow."""
    guarantee = summary["guarantee"] | fields
    own = {name: guarantee[name] for name in ("predictor", "threat", "confidence")}
    return summary | own | {"guarantee": guarantee}


def check_pixels(certifier, certificates, attack, attacked, names, radii=()):
    return bracket.check_pixels(comparison_of(certifier, attack), certificates, attacked, names, radii)


def check_norms(certifier, certificates, attack, attacked, names):
    return bracket.check_norms(comparison_of(certifier, attack), certificates, attacked, names)


def check_bounds(certifier, certificates, attack, attacked, names):
    """Either side's rows may be given by image instead of a store."""
    stores = [Stored(side) if isinstance(side, dict) else side for side in (certificates, attacked)]
    comparison = comparison_of(certifier, attack)
    return bracket.check_bounds(comparison, certifier, stores[0], attack, stores[1], names)


def with_guarantee(summary, **details):
    """A certifier's summary with a guarantee of every certified pixel that follows its other fields."""
    told = certified(summary["name"], summary["predictor"], summary["threat"], summary["confidence"], **details)
    return summary | {"guarantee": told["guarantee"]}
