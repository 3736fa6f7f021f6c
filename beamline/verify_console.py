"""The command `quietbeam verify`: whether results still are what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .verifying.request import Summary, VerifyRequest

__all__ = ["verify_app"]

INTERRUPTED = 130

verify_app = typer.Typer()


@verify_app.command()
def verify(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Output folders, archives, folders of results, or quoted patterns."),
    ],
    subset: Annotated[
        str, typer.Option(metavar="N/M", help="Only the N-th of M parts, that together check everything once.")
    ] = "1/1",
    max_duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin nothing new after 90s, 10m, 2h or 1d.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what was checked when; begin with the oldest.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="Check too that the scans' files are what was reduced.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each unit, and a summary.")] = False,
) -> None:
    """Check results against their checksums and decode their archives. Nothing is repaired or changed.

    Ends with 0 if all is well, 7 if something is damaged, 4 if something could not be checked or the time ran out.
    """
    from .verifying.request import VerifyRequest, parse_duration
    from .verifying.units import Subset

    seconds = None if max_duration is None else parse_duration(max_duration)
    request = VerifyRequest(tuple(targets), Subset.parse(subset), seconds, state, jobs, raw)
    raise typer.Exit(_run(request, as_json=as_json).exit_code)


def _run(request: VerifyRequest, *, as_json: bool) -> Summary:
    from .verifying.folder import is_result
    from .verifying.run import verify_results
    from .verifying.telling import JsonTelling, LineTelling

    in_detail = len(request.targets) == 1 and is_result(Path(request.targets[0]))
    with JsonTelling() if as_json else LineTelling(in_detail=in_detail) as tell:
        try:
            summary = verify_results(request, tell)
        except KeyboardInterrupt:
            typer.echo("\nstopped", err=True)
            raise typer.Exit(INTERRUPTED) from None
        tell.summary(summary, request.subset)
        return summary
