"""A run that is killed (SIGKILL) at random moments, also while a snapshot is written, ends as if it had not been."""

from tools.kill_test import KillTest


def test_five_kills(tmp_path):
    report = KillTest(tmp_path, kills=5, every=5, seed=2).run()
    assert report.kills == 5 and report.identical and report.while_writing >= 1
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix not in (".caffemodel", ".solverstate")]
