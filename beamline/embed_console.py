"""The command `quietbeam embed`: an archive that needs no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["embed_app"]

embed_app = typer.Typer()


@embed_app.command()
def embed(
    result: Annotated[Path, typer.Argument(metavar="OUT", exists=True, help="Output folder, or archive file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Archive to write.")],
    decoders: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with the decoder; may be repeated. [beside the archive, above, QUIETBEAM_DECODERS]"),
    ] = None,
) -> None:
    """Write an archive again with the decoder in it that it shares with others. The given one stays as it is."""
    from quietbeam.compress.archive import embed_decoder

    from .workspace import ARCHIVE

    embed_decoder(result / ARCHIVE if result.is_dir() else result, output, decoders=decoders or [])
    typer.echo(f"wrote {output}, which needs no other file")
