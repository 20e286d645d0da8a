"""Sphinx's settings, and the pages that are made from the package itself (docs/_generated)."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import protocaffe

HERE = Path(__file__).resolve().parent
GENERATED = HERE / "_generated"

project = "protocaffe"
author = "protocaffe authors"
copyright = author
version = release = protocaffe.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "Thumbs.db"]
html_theme = "furo"
html_title = f"protocaffe {version}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_rtype = False
# The doctest builder runs the pages' examples; those of docstrings run under pytest.
doctest_test_doctest_blocks = ""
trim_doctest_flags = True


def escaped(line: str) -> str:
    """A line of a docstring with |x| as mathematics and not as a substitution; code stays as it is."""
    if line.startswith("    "):
        return line
    return "``".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(line.split("``")))


def layers_page() -> str:
    """One entry for each layer type, from its docstring."""
    from protocaffe.layer import layer_types

    types = {n: c for n, c in sorted(layer_types().items()) if c.__module__.startswith("protocaffe.layers")}
    out = ["Layers", "======", "", f"{len(types)} layer types, in the order of their names.", ""]
    for name, cls in types.items():
        text = inspect.cleandoc(cls.__doc__ or "")
        out += [name, "-" * len(name), "", *map(escaped, text.splitlines()), ""]
    return "\n".join(out)


def commands_page() -> str:
    """Each sub-command's own help."""
    import click

    from protocaffe.cli import COMMANDS, group

    out = ["The command line", "================", ""]
    out += ["Flags may be written as Caffe writes them: ``protocaffe train -solver=solver.prototxt``.", ""]
    for name in COMMANDS:
        with click.Context(group, info_name="protocaffe", max_content_width=100, terminal_width=100) as parent:
            command = group.get_command(parent, name)
            assert command is not None
            text = command.get_help(click.Context(command, info_name=name, parent=parent))
        title = f"protocaffe {name}"
        out += [title, "-" * len(title), "", ".. code-block:: text", "", *(f"   {x}" for x in text.splitlines()), ""]
    return "\n".join(out)


def steps_table() -> str:
    """The figures of cpu_steps in benchmarks/results as Markdown tables."""
    out = []
    for path in sorted((HERE.parent / "benchmarks/results").glob("cpu_steps*.json")):
        result = json.loads(path.read_text())
        head = [
            "net",
            "batch",
            "ms",
            "PyTorch's ms",
            "ratio of times",
            "of processor times",
            "MB",
            "PyTorch's MB",
            "load",
        ]
        rows = [head, ["---"] * len(head)]
        for row in result["rows"]:
            keys = ("ours_ms", "torch_ms", "ratio", "cpu_ratio", "ours_mb", "torch_mb", "load")
            form = (".1f", ".1f", ".2f", ".2f", ",.0f", ",.0f", ".1f")
            values = [format(row[key], f) if key in row else "" for key, f in zip(keys, form, strict=True)]
            rows.append([row["net"], str(row["batch"]), *values])
        threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
        facts = [result.get("processor", ""), threads, f"medians of {result['rounds']} rounds", result.get("date", "")]
        out += [f"**{', '.join(f for f in facts if f)}**", ""]
        out += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(out)


def roofline_tables() -> str:
    """The sums by kernel of benchmarks/results/gpu_roofline.json as Markdown tables, one for each net."""
    path = HERE.parent / "benchmarks/results/gpu_roofline.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    out = []
    for row in result["rows"]:
        floor = sum(one["floor_us"] for one in row["kernels"])
        speed = f"{row['batch'] * 1e6 / row['step_us']:,.0f} images/s"
        head = f"**{row['net']}, batch {row['batch']}, {row['math']}: {row['step_us']:,.0f} us a step, {speed}**"
        memory = f"{row['memory_mib']:,} MiB in use"
        out += [f"{head}; the floor of its calls {floor:,.0f} us; {memory} ({result['gpu']}, {result['date']})", ""]
        rows = [["kernel", "calls", "MB", "GFLOP", "floor, us", "measured, us", "ratio"]]
        rows.append(["---", *["---:"] * 6])
        small = [one for one in row["kernels"] if one["us"] < 0.005 * row["calls_us"]]
        rest = {key: sum(one[key] for one in small) for key in ("calls", "mb", "gflop", "floor_us", "us")}
        for one in (*(k for k in row["kernels"] if k not in small), {"kernel": "all others", **rest}):
            ratio = f"{one['us'] / one['floor_us']:.2f}" if one["floor_us"] else ""
            figures = (f"{one[key]:,.0f}" for key in ("mb", "gflop", "floor_us", "us"))
            rows.append([one["kernel"], str(one["calls"]), *figures, ratio])
        out += ["| " + " | ".join(cells) + " |" for cells in rows] + [""]
    return "\n".join(out)


def gpu_steps_tables() -> str:
    """The figures of benchmarks/results/gpu_vs_torch.json as Markdown tables, one for each net."""
    path = HERE.parent / "benchmarks/results/gpu_vs_torch.json"
    result = json.loads(path.read_text())
    out = []
    for row in result["rows"]:
        facts = (row["net"], f"batch {row['batch']}", result["gpu"], f"PyTorch {result['torch']}", result["date"])
        out += [f"**{', '.join(facts)}**", "", "| side | us a step | images/s | MiB |", "| --- | ---: | ---: | ---: |"]
        for side, one in row["sides"].items():
            memory = f"{one['memory_mib']:,}" if "memory_mib" in one else ""
            out.append(f"| {side} | {one['us']:,.1f} | {one['images_per_s']:,} | {memory} |")
        out.append("")
    return "\n".join(out)


def generate(app: object) -> None:
    """Write the generated pages; they are not in git."""
    GENERATED.mkdir(exist_ok=True)
    pages = {
        "layers.rst": layers_page,
        "commands.rst": commands_page,
        "cpu_steps.md": steps_table,
        "gpu_steps.md": gpu_steps_tables,
        "gpu_roofline.md": roofline_tables,
    }
    for name, make in pages.items():
        text = make()
        path = GENERATED / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# included by benchmarks.md and performance.md
exclude_patterns += [f"_generated/{name}.md" for name in ("cpu_steps", "gpu_steps", "gpu_roofline")]


def setup(app: object) -> None:
    """Sphinx's hook."""
    app.connect("builder-inited", generate)  # type: ignore[attr-defined]
