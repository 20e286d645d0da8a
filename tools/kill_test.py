#!/usr/bin/env python3
"""Training that is killed again and again loses nothing: LeNet on the sample that comes with the package.

    python tools/kill_test.py [--case plain|hard|soft|second-order|...] [--kills 100] [--every 20] [--seed 1]

One run goes through. A second one, in a child process, gets SIGKILL at random moments: half of them after a random
time, half while a snapshot is being written (the folder is watched for its temporary file). After each kill every
snapshot that has a name must load, and its weights must be those that its state asks for; training goes on from the
newest. At the end the weights and solver states of both runs must be the same bytes: weights, masks, histories, what
lies behind soft masks, sums for scores, counters. All cases but the first prune while training, at steps that lie
between the snapshots.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from protocaffe.data.datasets import offline_sample
from protocaffe.io.caffemodel import read_caffemodel
from protocaffe.io.solverstate import read_solverstate
from protocaffe.resources import resource_path

CHILD = "import sys; from protocaffe.cli import main; main(sys.argv[1:])"
PATIENCE = 300.0

#: what a solver file prunes: {when} are steps from the start to a late one, FREEZE is one later still
CASES = {
    "plain": "",
    "hard": "{when} sparsity: 0.95 schedule: CUBIC",
    "soft": "{when} sparsity: 0.95 mode: SOFT freeze_step: FREEZE margin: 0.02",
    "second-order": "{when} sparsity: 0.9 method: SECOND_ORDER",
    "taylor-channels": "{when} sparsity: 0.7 method: TAYLOR_CHANNELS bias: true",
}
WHEN = "initial_sparsity: 0.3 begin_step: 3 end_step: END frequency: 13"


@dataclass
class Report:
    """What happened."""

    kills: int = 0
    while_writing: int = 0  #: a temporary file was there after the kill
    between_weights_and_state: int = 0  #: newest weights have no state yet
    before_any_snapshot: int = 0
    files_checked: int = 0
    finished_too_early: int = 0  #: runs that had to start anew since they ended before enough kills
    left_over: int = 0  #: temporary files at the end
    identical: bool = False
    #: of the whole run's snapshots: weights with masks, with masks that have taken weights back since the one before;
    #: states with what lies behind masks, with sums for scores
    masked: int = 0
    revived: int = 0
    behind: int = 0
    sums: int = 0
    seconds: float = 0.0


class KillTest:
    """``folder`` gets data, nets and both runs' snapshots."""

    def __init__(self, folder: Path, kills: int, every: int, seed: int, case: str = "plain") -> None:
        self.folder, self.kills, self.every, self.case = folder, kills, every, case
        self.random = random.Random(seed)
        self.report = Report()
        offline_sample(folder / "data" / "mnist")
        shutil.copytree(resource_path("models") / "lenet", folder / "models" / "lenet")

    def solver_file(self, name: str, iterations: int) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        path = self.folder / f"{name}.prototxt"
        settings = CASES[self.case].replace("{when}", WHEN)
        for word, share in (("END", 0.7), ("FREEZE", 0.9)):
            settings = settings.replace(word, str(int(share * iterations)))
        pruning = f"pruning_param {{ {settings} }}" if settings else ""
        path.write_text(
            f'net: "models/lenet/train_val.prototxt" type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005\n'
            f'lr_policy: "inv" gamma: 0.0001 power: 0.75 max_iter: {iterations} snapshot: {self.every}\n'
            f'snapshot_prefix: "run/lenet" random_seed: 11 snapshot_after_train: true\n'
            f"{pruning}\n"
        )
        return path

    def start(self, solver: Path, snapshot: str | None) -> subprocess.Popen:
        extra = ["--snapshot", snapshot] if snapshot else []
        command = [sys.executable, "-c", CHILD, "train", "--solver", solver.name, "--cpu", *extra]
        log = open(self.folder / "log", "wb")  # noqa: SIM115 (the child's)
        with log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def finish(self, child: subprocess.Popen) -> None:
        if child.wait(PATIENCE):
            sys.exit(f"training failed:\n{(self.folder / 'log').read_text()[-2000:]}")

    def states(self) -> list[tuple[int, Path]]:
        """Solver states by iteration."""
        found = (re.fullmatch(r"lenet_iter_(\d+)\.solverstate", p.name) for p in (self.folder / "run").iterdir())
        return sorted((int(m[1]), self.folder / "run" / m[0]) for m in found if m)

    def kill(self, child: subprocess.Popen) -> bool:
        """Kill at a random moment; False when the child had ended by itself."""
        run, begun = self.folder / "run", time.monotonic()
        if self.random.random() < 0.5:
            delay = self.random.uniform(0.0, self.span)
            while time.monotonic() - begun < delay and child.poll() is None:
                time.sleep(0.002)
        else:
            skip, seen = self.random.randrange(3), ""  # the first, second or third file that is being written
            while child.poll() is None:
                names = [n for n in os.listdir(run) if n.endswith(".tmp") and n not in self.old]
                if names and names[0] != seen:
                    seen, skip = names[0], skip - 1
                    if skip < 0:
                        time.sleep(self.random.uniform(0.0, 0.002))
                        break
        ended = child.poll() is not None
        child.send_signal(signal.SIGKILL)
        child.wait()
        return not ended

    def check(self) -> Path | None:
        """Every snapshot loads; returns the newest state."""
        run, r = self.folder / "run", self.report
        files = sorted(run.iterdir())
        left = {p.name for p in files if p.name.endswith(".tmp")}
        r.while_writing += bool(left - self.old)
        self.old = left
        models = []
        for path in files:
            if path.name in left:
                continue
            if path.suffix == ".caffemodel":
                weights = read_caffemodel(path)
                shapes = [b.shape for w in weights for b in w.blobs]
                assert shapes == SHAPES, f"{path}: {shapes}"
                for values, mask in ((b, m) for w in weights for b, m in zip(w.blobs, w.masks, strict=True)):
                    assert mask is None or not values[~mask].any(), f"{path}: a pruned weight is not zero"
                models.append(int(re.findall(r"\d+", path.stem)[-1]))
            else:
                assert path.suffix == ".solverstate", path
                state = read_solverstate(path)
                assert state.iter == int(re.findall(r"\d+", path.stem)[-1]) and len(state.history) == len(SHAPES)
                assert (self.folder / state.learned_net).is_file(), f"{path}: no weights"
            r.files_checked += 1
        states = self.states()
        newest = states[-1][0] if states else 0
        r.between_weights_and_state += bool(models) and max(models) > newest
        r.before_any_snapshot += not states
        for _, path in states[:-2]:  # a long run would check the same old files again and again
            path.unlink()
            path.with_suffix(".caffemodel").unlink()
        return states[-1][1] if states else None

    def run(self) -> Report:
        begun, r = time.monotonic(), self.report
        self.old: set[str] = set()
        iterations = self.every * (2 * self.kills + 5)
        solver = self.solver_file("run", iterations)
        self.finish(self.start(solver, None))
        lasted = time.monotonic() - begun
        whole = {p.name: fingerprint(p) for p in (self.folder / "run").iterdir()}
        self.count()
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()
        # A start takes a second or so; then a random time in which about three snapshots are written.
        self.span = 1.5 + 3 * lasted / (2 * self.kills + 5)
        newest: Path | None = None
        last = self.folder / "run" / f"lenet_iter_{iterations}.solverstate"
        while r.kills < self.kills or newest in (None, last):  # in any case a run goes on from where one was killed
            child = self.start(solver, str(newest.relative_to(self.folder)) if newest else None)
            if self.kill(child):
                r.kills += 1
            else:
                self.finish(child)
                r.finished_too_early += 1
                self.check()
                self.compare(whole, iterations)
                shutil.rmtree(self.folder / "run")
                (self.folder / "run").mkdir()
                newest = None
                continue
            newest = self.check()
        self.finish(self.start(solver, str(newest.relative_to(self.folder)) if newest else None))
        self.check()
        self.compare(whole, iterations)
        r.left_over = len(self.old)
        r.identical = True
        r.seconds = round(time.monotonic() - begun, 1)
        return r

    def count(self) -> None:
        """What the whole run's snapshots hold."""
        r, last = self.report, None
        for _, path in self.states():
            masks = [m for w in read_caffemodel(path.with_suffix(".caffemodel")) for m in w.masks]
            r.masked += any(m is not None and not m.all() for m in masks)
            pairs = zip(masks, last or [], strict=False)
            r.revived += any(new is not None and old is not None and (new & ~old).any() for new, old in pairs)
            last = masks
            resume = read_solverstate(path).resume
            r.behind += bool(resume.master)
            r.sums += bool(resume.summed)

    def compare(self, whole: dict[str, dict[str, str]], iterations: int) -> None:
        """The snapshots that are there are those of the uninterrupted run, and the last one is among them."""
        names = [p.name for p in (self.folder / "run").iterdir() if not p.name.endswith(".tmp")]
        assert f"lenet_iter_{iterations}.solverstate" in names, names
        for name in names:
            mine = fingerprint(self.folder / "run" / name)
            differ = [part for part in mine if mine[part] != whole[name].get(part)]
            assert not differ, f"{name} differs from the whole run's: {', '.join(differ)}"


def fingerprint(path: Path) -> dict[str, str]:
    """SHA-256 of each of a snapshot's parts, and of the whole file."""
    parts: dict[str, list[bytes]] = {"file": [path.read_bytes()]}
    if path.suffix == ".caffemodel":
        for weights in read_caffemodel(path):
            parts.setdefault("weights", []).extend(values.tobytes() for values in weights.blobs)
            parts.setdefault("masks", []).extend(b"none" if m is None else m.tobytes() for m in weights.masks)
    else:
        state = read_solverstate(path)
        parts["histories"] = [values.tobytes() for values in state.history]
        parts["what lies behind soft masks"] = list(state.resume.master)
        parts["sums for scores"] = [*state.resume.squares, *state.resume.taylor, str(state.resume.summed).encode()]
    return {part: hashlib.sha256(b"".join(pieces)).hexdigest() for part, pieces in parts.items()}


SHAPES = [(20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,)]


def main() -> None:
    """Run it and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="plain", help="what the solver file prunes")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", type=int, default=20, help="iterations from snapshot to snapshot")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="protocaffe-kill-") as folder:
        report = KillTest(Path(folder), args.kills, args.every, args.seed, args.case).run()
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
