"""Runs that begin in the same second, and what becomes of their reports."""

from concurrent.futures import ThreadPoolExecutor

from support.pipeline_runs import SMALL, start

from certseg.pipeline.run_folder import made

QUICK = tuple(word for word in SMALL if not word.startswith("certifier."))


def test_of_many_who_ask_at_once_each_gets_another(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: made(tmp_path / "day" / "noon"), range(24)))
    assert len(set(folders)) == 24
    assert all(folder.is_dir() for folder in folders)
    assert {folder.name for folder in folders} == {"noon", *(f"noon-{n}" for n in range(2, 25))}


def test_two_runs_and_two_sweeps_of_one_folder_keep_their_reports(tmp_path):
    single = ("hydra.run.dir=reports/noon", "certifier=none", "training.iterations=1", "pictures=0")
    for process in [start(tmp_path / "out", *single, cwd=tmp_path, base=QUICK) for _ in range(2)]:
        status, out, err = process.finish()
        assert status == 0, out + err
    assert {path.parent.name for path in tmp_path.glob("reports/*/report.md")} == {"noon", "noon-2"}
    assert {path.parent.parent.name for path in tmp_path.glob("reports/*/.hydra/overrides.yaml")} == {"noon", "noon-2"}
    sweep = ("hydra.sweep.dir='it\\'s noon/noon'", *single[1:])
    for _ in range(2):
        status, out, err = start(tmp_path / "out", *sweep, cwd=tmp_path, base=QUICK, flags=("-m",)).finish()
        assert status == 0, out + err
        assert "Reused training" in out
    assert {path.parent.name for path in tmp_path.glob("it's noon/*/report.md")} == {"noon", "noon-2"}
