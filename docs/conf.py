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
    """benchmarks/results/cpu_steps.json as a Markdown table."""
    result = json.loads((HERE.parent / "benchmarks/results/cpu_steps.json").read_text())
    head = ["net", "batch", "protocaffe, ms", "PyTorch, ms", "ratio of times", "peak memory, MB", "PyTorch's, MB"]
    rows = [head, ["---"] * len(head)]
    for row in result["rows"]:
        memory = [f"{row[key]:,.0f}" if key in row else "" for key in ("ours_mb", "torch_mb")]
        times = [f"{row['ours_ms']:.1f}", f"{row['torch_ms']:.1f}", f"{row['ratio']:.2f}"]
        rows.append([row["net"], str(row["batch"]), *times, *memory])
    machine = ", ".join(str(result[key]) for key in ("processor", "date") if key in result)
    where = f"{result['threads']} threads{', ' + machine if machine else ''}; medians of {result['rounds']} rounds"
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{where}.\n"


def generate(app: object) -> None:
    """Write the generated pages; they are not in git."""
    GENERATED.mkdir(exist_ok=True)
    pages = {"layers.rst": layers_page, "commands.rst": commands_page, "cpu_steps.md": steps_table}
    for name, make in pages.items():
        text = make()
        path = GENERATED / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


exclude_patterns += ["_generated/cpu_steps.md"]  # included by benchmarks.md


def setup(app: object) -> None:
    """Sphinx's hook."""
    app.connect("builder-inited", generate)  # type: ignore[attr-defined]
