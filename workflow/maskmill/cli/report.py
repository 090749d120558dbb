"""`maskmill report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Out, section


def report(
    plan: Annotated[str, typer.Option(help="the resolved run as JSON")],
    out: Out,
    results: Annotated[Path, typer.Option()] = Path("results"),
    benchmarks: Annotated[Path, typer.Option()] = Path("benchmarks"),
) -> None:
    """report: everything -> one self-contained HTML file."""
    from maskmill.report.run import run

    run(section(plan), results, benchmarks, out)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(report)
