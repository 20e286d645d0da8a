"""Files appear completely or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from protocaffe.io.files import atomic_write


def test_replaces_at_the_end(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with atomic_write(file) as out:
        out.write(b"new")
        out.flush()
        assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path, error):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with pytest.raises(error), atomic_write(file) as out:
        out.write(b"half")
        raise error
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "a", tmp_path / "b"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_write(link) as out:
        out.write(b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "a") as out:
        out.write(b"x")
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "plain").st_mode


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_write(tmp_path / "nowhere" / "a"):
        pass


def test_what_dead_writers_left_is_removed(tmp_path):
    """The lock of a killed writer is gone, that of a live one holds."""
    code = (
        "import os, signal, sys; from protocaffe.io.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as out:\n"
        "    out.write(b'half'); out.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "a[1]"
    file.write_bytes(b"old")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(file)], check=False)
        assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2  # the second removed the first's
    with atomic_write(file) as out:
        out.write(b"outer")
        with atomic_write(file) as other:
            other.write(b"inner")
            assert len(list(tmp_path.iterdir())) == 3
        assert file.read_bytes() == b"inner"
    assert file.read_bytes() == b"outer" and list(tmp_path.iterdir()) == [file]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    with atomic_write(tmp_path / "null") as out:
        out.write(b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space"), atomic_write("/dev/full") as out:
        out.write(b"x")


@pytest.mark.parametrize("function", ["fsync", "open", "replace"])
def test_an_error_names_the_file_that_is_wanted(tmp_path, monkeypatch, function):
    def full(*args):
        raise OSError(28, "No space left on device", *(str(a) for a in args if isinstance(a, (str, os.PathLike))))

    (tmp_path / "link").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "link"):
        with monkeypatch.context() as patch, pytest.raises(OSError) as raised:
            patch.setattr(os, function, full)
            with atomic_write(path) as out:
                out.write(b"x")
        assert (raised.value.filename, raised.value.filename2, raised.value.errno) == (str(path), None, 28)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["link"]


def test_other_errors_keep_their_file(tmp_path):
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "a") as out:
        out.write((tmp_path / "b").read_bytes())
    assert raised.value.filename == str(tmp_path / "b")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="folder"), atomic_write(tmp_path):
        pass
