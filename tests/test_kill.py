"""A run that is killed (SIGKILL) at random moments, also while a snapshot is written, ends as if it had not been."""

import pytest

from tools.kill_test import CASES, KillTest


def killed(folder, kills, case="plain"):
    report = KillTest(folder, kills, every=5, seed=2, case=case).run()
    assert report.kills >= kills and report.identical
    assert not [path for path in (folder / "run").iterdir() if path.suffix not in (".caffemodel", ".solverstate")]
    return report


def test_five_kills(tmp_path):
    assert killed(tmp_path, 5).while_writing >= 1


@pytest.mark.parametrize("case", [case for case in CASES if case != "plain"])
def test_runs_that_prune(case, tmp_path):
    """Masks, weights, histories, what lies behind soft masks, sums for scores: the uninterrupted run's, to the byte."""
    report = killed(tmp_path, 1, case)
    assert report.masked >= 5
    assert (report.revived > 0, report.behind > 0) == (case == "soft", case == "soft")
    assert (report.sums > 0) == (case in ("second-order", "taylor-channels"))
