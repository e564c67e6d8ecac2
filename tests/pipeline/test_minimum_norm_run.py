"""Minimum-norm attacks in the whole pipeline: rows, report, resume, and the bracket with Lipschitz certificates."""

import json

import pytest
from support.pipeline_runs import SMALL, configuration, summaries

from certseg.errors import ConfigError
from certseg.pipeline import run
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan

FEW = ("attack.iterations=6", "attack.success=0.6", "attack.away_from=prediction", "training.iterations=2")
UNCERTIFIED = [option for option in SMALL if not option.startswith("certifier")]
LIPSCHITZ = [option for option in UNCERTIFIED if not option.startswith("model")]


def test_a_run_shows_norms_next_to_clean_figures_and_resumes(tmp_path, capsys):
    cfg = configuration(tmp_path, "attack=dag", "certifier=none", "training=clean", *FEW, base=UNCERTIFIED)
    text = run(cfg, tmp_path / "report", ["attack=dag"]).read_text()
    assert "reached share %" in text
    assert "norm median" in text
    assert "bound the worst case from above" in text
    (row_file,) = tmp_path.rglob("dag-*/rows.jsonl")
    rows = [json.loads(line) for line in row_file.read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert set(row) == {"image", "figures", "smallest", "counts", "seconds", "passes", "flags"}
        assert row["figures"]["reached"] in (0.0, 1.0)
        assert row["passes"]["backward"] <= 6
    before, figures = row_file.stat().st_mtime_ns, summaries(tmp_path)
    assert "bracket" in capsys.readouterr().out
    run(cfg, tmp_path / "again")
    assert row_file.stat().st_mtime_ns == before
    assert summaries(tmp_path) == figures


def test_norms_found_lie_above_the_certified_radii_of_a_lipschitz_network(tmp_path, capsys):
    cfg = configuration(
        tmp_path,
        "model=lip_deeplabv3",
        "model.head=free",
        "model.width=16",
        "model.position_bias=true",
        "training=lipschitz",
        "certifier=lipschitz",
        "certifier.worst_case_iou=false",
        "attack=alma_prox",
        "attack.success=0.25",
        "attack.away_from=prediction",
        "attack.iterations=20",
        "training.iterations=2",
        "pictures=1",
        base=LIPSCHITZ,
    )
    run(cfg, tmp_path / "report")
    found, certified = (
        [json.loads(line) for line in next(tmp_path.rglob(f"{stage}-*/rows.jsonl")).read_text().splitlines()]
        for stage in ("alma_prox", "lipschitz")
    )
    reached = [row for row in found if row["figures"]["reached"]]
    assert reached
    radii = {row["image"]: row["figures"]["robustness@25"] for row in certified}
    assert all(row["figures"]["norm"] >= radii[row["image"]] for row in reached)
    assert "is below the radius certified for its share of pixels" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["attack=alma_prox", "+attack.radius=0.1"], "takes no attack.radius"),
        (["attack=dag", "attack.norm=linf"], "attack.norm"),
        (["attack=asma", "attack.success=2"], "attack.success"),
        (["attack=pdpgd", "attack.away_from=truth"], "attack.away_from"),
        (["attack=dag", "attack.goal=mermaid"], "mermaid"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(overrides, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        Plan.of(parse(configuration(tmp_path, *overrides)))


def test_a_goal_is_named_by_its_class(tmp_path):
    plan = Plan.of(parse(configuration(tmp_path, "attack=pdpgd", "attack.goal=sky")))
    assert isinstance(plan.attack.goal, int)
    assert plan.threat is None
