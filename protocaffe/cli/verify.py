"""``protocaffe verify``: score committed records anew, and say whether what they claim holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from protocaffe.cli.common import CaffeCommand, device_options
from protocaffe.errors import FileFormatError, ProtocaffeError

#: what a record must hold, and the type of it
FIELDS: dict[str, type | tuple[type, ...]] = {
    "model": str, "weights": str, "iterations": int, "items": int, "errors": int, "nonzeros": int, "parameters": int,
    "zeros": int, "prunable": int, "bytes": int, "dense_errors": int, "seed": int, "commit": str,
}  # fmt: skip
#: by one wrong answer in so many another device may differ, which rounds otherwise
ITEMS_PER_ERROR = 5_000


@dataclass
class Verdict:
    """A record, what was found, and where they differ."""

    name: str
    record: dict[str, Any]
    found: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def wrong(self) -> list[str]:
        """What does not hold."""
        if self.error:
            return [self.error]
        return [
            f"{what} {value:,}, the record says {self.record[what]:,}"
            for what, value in self.found.items()
            if abs(value - self.record[what]) > (self.record["items"] / ITEMS_PER_ERROR if what == "errors" else 0)
        ]


def read_record(path: Path) -> dict[str, Any]:
    """A record. Raises FileFormatError, naming file and field, for what is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f'"{path}" is no record: {error}') from error
    for name, kind in FIELDS.items():
        value = record.get(name) if isinstance(record, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = kind.__name__ if isinstance(kind, type) else "number"
            raise FileFormatError(f'"{path}" is no record: "{name}" must be of type {expected}, got {value!r}')
    if record["items"] < 1 or record["iterations"] < 1:
        raise FileFormatError(f'"{path}": items and iterations must be at least 1')
    return record


def check(path: Path, **device: Any) -> Verdict:
    """Load what the record names, score it and count it."""
    from protocaffe.cli.sensitivity import accuracy_of
    from protocaffe.cli.session import open_net
    from protocaffe.pruning import sparsity_of_net

    verdict = Verdict(path.stem, read_record(path))
    record = verdict.record
    weights = path.parent / record["weights"]
    try:
        net = open_net(record["model"], "TEST", str(weights), **device, reuse_memory=True)
        report = sparsity_of_net(net)
        accuracy = accuracy_of(net, record["iterations"])
        size = weights.stat().st_size
        net.close()
    except (ProtocaffeError, OSError) as error:
        verdict.error = str(error)
        return verdict
    verdict.found = {
        "errors": round((1 - accuracy) * record["items"]), "nonzeros": report.nonzeros,
        "parameters": report.parameters, "zeros": report.zeros, "prunable": report.prunable, "bytes": size,
    }  # fmt: skip
    return verdict


@click.command("verify", cls=CaffeCommand, short_help="Score committed records anew.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@device_options
def command(folder: Path, **device: Any) -> None:
    """Score every record (*.json) of a folder anew and print what each net is worth.

    A record names a model (with its test data; paths start at the current folder), a weights file beside itself, and
    what it claims: wrong answers among so many items, non-zeros over all parameters, zeros over prunable weights,
    bytes of the file, wrong answers of the dense net, seed and commit. A claim that does not hold is an error; wrong
    answers may differ by one in 5,000 items, since devices round differently.
    """
    from protocaffe.cli.common import stdout_table

    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileFormatError(f'"{folder}" holds no records (*.json)')
    verdicts = [check(path, **device) for path in paths]
    figures = ("error", "dense", "parameters / non-zeros", "sparsity", "bytes", "seed")
    columns = [("record", "left"), *((name, "right") for name in figures), ("commit", "left"), ("holds", "left")]
    with stdout_table(f"{folder}: scored anew", columns) as table:
        for verdict in verdicts:
            record, found = verdict.record, verdict.found
            if not found:
                dashes = ["-"] * 5
                table.add_row(verdict.name, *dashes, str(record["seed"]), record["commit"][:9], "no")
                continue
            ratio = found["parameters"] / found["nonzeros"] if found["nonzeros"] else float("inf")
            wrong, dense = found["errors"] / record["items"], record["dense_errors"] / record["items"]
            table.add_row(
                verdict.name, f"{wrong:.2%}", f"{dense:.2%}",
                f"{found['parameters']:,} / {found['nonzeros']:,} = {ratio:.1f}x",
                f"{found['zeros'] / max(1, found['prunable']):.2%}", f"{found['bytes']:,}", str(record["seed"]),
                record["commit"][:9], "no" if verdict.wrong else "yes",
            )  # fmt: skip
    bad = [f'"{verdict.name}": {"; ".join(verdict.wrong)}' for verdict in verdicts if verdict.wrong]
    if bad:
        raise FileFormatError(f"{len(bad)} of {len(verdicts)} records do not hold: " + " | ".join(bad))
    click.echo(f"{len(verdicts)} records hold")
