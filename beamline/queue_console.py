"""The commands of the `quietbeam` command around the queue: who fills it, who works on it, and how to look at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quietbeam.reconstruction.errors import QuietbeamError

if TYPE_CHECKING:
    from .jobs.destination import Destination
    from .jobs.queue import JobQueue
    from .publishing.publish import PublishSettings
    from .watching.intake import Intake

__all__ = ["queue_app"]

FAILED, PARTIAL = 1, 4
LOOK_BACK_SECONDS = 3600.0
"""How much earlier than its start a watcher of a catalogue begins: what ended while it was down for a short time."""

queue_app = typer.Typer()

QueueName = Annotated[
    str | None,
    typer.Option("--queue", metavar="QUEUE", help="Database, or spool folder. [QUIETBEAM_QUEUE, or in ~/.local/state]"),
]
Profile = Annotated[str | None, typer.Option(help="Name of a profile, or path of a TOML file. [default]")]
Priority = Annotated[int | None, typer.Option(help="Higher first. [0]")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.NAME=VALUE", help="One setting; may be repeated.")
]
TiledUri = Annotated[
    str | None,
    typer.Option(
        "--tiled", metavar="URI", envvar=["QUIETBEAM_TILED", "TILED_URI"], help="Catalogue of runs, or profile."
    ),
]
WorkerConfig = Annotated[Path | None, typer.Option("--config", metavar="WORKER.TOML", help="Settings of the worker.")]
Jobs = Annotated[list[str], typer.Argument(metavar="WHICH...", help="Number, -1 for the latest, run uid, or path.")]
_FITTING = {
    "--pattern": ("--dir",),
    "--settle": ("--dir",),
    "--bind": ("--zmq",),
    "--prefix": ("--zmq",),
    "--allow-remote": ("--zmq",),
    "--since": ("--dir", "--tiled"),
}
"""Options of `watch`, and what they are for."""
_WITH_NEGATIVE = {"ignore_unknown_options": True}
"""Lets -1 be an argument; what begins with two dashes is refused by `_names`."""


@queue_app.command()
def worker(
    queue: QueueName = None,
    config: WorkerConfig = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results. [that of WORKER.TOML]")] = None,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is left to do.")] = False,
) -> None:
    """Reduce the scans of the queue, one after the other, until stopped."""
    from .jobs.worker import Worker, run_worker
    from .jobs.worker_settings import read_worker_settings

    settings = read_worker_settings(config, output=output)
    raise typer.Exit(run_worker(Worker(_open(queue).queue(), settings), until_empty=until_empty))


@queue_app.command(context_settings=_WITH_NEGATIVE)
def status(
    which: Annotated[str | None, typer.Argument(metavar="[WHICH]", help="One job: number, -1, run uid, path.")] = None,
    queue: QueueName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the queue, or one job in detail."""
    if watch and (as_json or which is not None):
        raise typer.BadParameter("--watch shows the whole queue: give neither a job nor --json with it")
    from .queue_view import show_again_and_again, show_job, show_queue

    opened = _existing(queue)
    if watch:
        show_again_and_again(opened)
    elif which is not None:
        show_job(opened, *_names([which]), as_json=as_json)
    else:
        show_queue(opened, as_json=as_json)


@queue_app.command(context_settings=_WITH_NEGATIVE)
def submit(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="Scan, run.json, .jsonl of documents, run uid, or -1.")
    ],
    profile: Profile = None,
    priority: Priority = None,
    sets: Sets = None,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="The paths are on the worker's machine; they are not looked at here.")
    ] = False,
    tiled: TiledUri = None,
    queue: QueueName = None,
) -> None:
    """Queue scans or runs now, whatever their plan asked for."""
    from .queue_view import tell_of_profile
    from .watching.targets import submit_target

    names = _names(targets)
    intake = _intake(queue, "console", profile=profile, priority=priority, settings=_settings(sets))
    tell_of_profile(profile)
    with _catalogue(tiled) as client:
        _report_each(names, lambda target: submit_target(intake, target, client, elsewhere=elsewhere))


@queue_app.command(context_settings=_WITH_NEGATIVE)
def retry(
    which: Jobs,
    force: Annotated[bool, typer.Option("--force", help="Also a job that is done.")] = False,
    sets: Sets = None,
    priority: Priority = None,
    queue: QueueName = None,
) -> None:
    """Queue jobs again that failed or were cancelled; --set goes over the settings that they have.

    With another profile a scan is another job: `quietbeam submit UID --profile NAME`.
    """
    from .retrying import retry_job

    opened, settings = _existing(queue), _settings(sets)
    _each(_names(which), lambda name: retry_job(opened, name, force=force, settings=settings, priority=priority))


@queue_app.command(context_settings=_WITH_NEGATIVE)
def cancel(which: Jobs, queue: QueueName = None) -> None:
    """Cancel jobs that wait or run."""
    opened = _existing(queue)

    def cancelled(name: str) -> list[str]:
        job = opened.cancel(name)
        return [f"job {job.id}, {job.name}: {job.state}"]

    _each(_names(which), cancelled)


@queue_app.command("catch-up")
def catch_up(
    since: Annotated[str, typer.Option(help="30min, 2h, 3d ago, or a date: runs that began since.")] = "1d",
    tiled: TiledUri = None,
    documents: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of runs' documents, *.jsonl.")] = None,
    profile: Profile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    config: WorkerConfig = None,
    queue: QueueName = None,
) -> None:
    """Queue runs that nobody submitted: the hook was off, its process was killed, a watcher was down."""
    from .watching import catch_up as catching

    began = catching.parse_since(since)
    intake = _intake(queue, "catch-up", default=profile, dry_run=dry_run)
    path_map = _path_map(config)
    with _catalogue(tiled) as client:
        caught = catching.catch_up(intake, since=began, tiled=client, documents=documents, path_map=path_map)
        _report_caught(list(caught))


@queue_app.command()
def watch(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Folder that scans are written to.")
    ] = None,
    pattern: Annotated[str, typer.Option(help="Names of the scans; **/*.h5 for folders below too.")] = "*.h5",
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without a change after which a file is complete.")
    ] = 10.0,
    zmq: Annotated[str | None, typer.Option(metavar="ADDRESS", help="127.0.0.1:5578, or ipc:///PATH.")] = None,
    bind: Annotated[bool, typer.Option("--bind", help="Let the publisher connect here, without a proxy.")] = False,
    prefix: Annotated[str, typer.Option(help="Publisher to listen to. [all]")] = "",
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Also an address that others reach.")] = False,
    tiled: Annotated[str | None, typer.Option(metavar="URI", help="Catalogue of runs, or profile.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Files or runs since: 2h, 2026-11-01. [all files; runs of the last hour and from now on]"),
    ] = None,
    profile: Profile = None,
    priority: Priority = None,
    queue: QueueName = None,
) -> None:
    """Queue each scan that is finished: in a folder, told over ZMQ, or in a Tiled catalogue."""
    _check_fits(context, _one_of({"--dir": folder, "--zmq": zmq, "--tiled": tiled}))
    began = _since(since)
    intake = _intake(queue, "watch", default=profile, default_priority=priority)
    if folder is not None:
        code = _watch_folder(intake, folder, pattern, settle, began)
    elif zmq is not None:
        code = _watch_documents(intake, zmq, prefix, bind=bind, allow_remote=allow_remote)
    else:
        code = _watch_catalogue(intake, str(tiled), began)
    raise typer.Exit(code)


@queue_app.command()
def publish(
    outputs: Annotated[list[Path] | None, typer.Argument(metavar="OUT...", help="Output folders.")] = None,
    pending: Annotated[bool, typer.Option("--pending", help="All jobs whose result is not published yet.")] = False,
    config: WorkerConfig = None,
    queue: QueueName = None,
) -> None:
    """Make the files of results for others, and announce them, as the [publish] table of WORKER.TOML says."""
    if pending == bool(outputs):
        raise typer.BadParameter("give either output folders or --pending")
    settings = _publish_settings(config)
    if pending:
        _publish_pending(_existing(queue), settings)
    else:
        _publish_outputs(outputs or [], settings)


def _open(queue: str | None) -> Destination:
    from .jobs.places import default_queue
    from .jobs.submission import open_queue

    return open_queue(queue or default_queue())


def _existing(queue: str | None) -> JobQueue:
    """Open a queue to look at it; a wrong name shall not make an empty one."""
    opened = _open(queue)
    if not opened.path.exists():
        raise QuietbeamError(f"{opened.path}: no queue is here; name it with --queue or QUIETBEAM_QUEUE")
    return opened.queue()


def _intake(
    queue: str | None, source: str, *, default: str | None = None, default_priority: int | None = None, **options: Any
) -> Intake:
    from .hook_rules import Rules
    from .jobs.profiles import is_path
    from .watching.intake import Intake

    if default and is_path(default):  # the worker would refuse each of its jobs
        raise typer.BadParameter(f"--profile {default}: expected the name of a profile in the worker's folder, no path")
    opened = _open(queue)
    opened.check()
    return Intake(opened, source, Rules(default or "default", default_priority or 0), **options)


def _catalogue(uri: str | None) -> AbstractContextManager[Any]:
    """Connect to a catalogue; without one, give None."""
    if not uri:
        return nullcontext()
    from .watching.tiled_runs import connected

    return connected(uri)


def _names(given: Iterable[str]) -> list[str]:
    names = list(given)
    if unknown := next((name for name in names if name.startswith("-") and not name[1:].isdigit()), None):
        raise typer.BadParameter(f"no such option: {unknown}")
    return names


def _settings(sets: list[str] | None) -> dict[str, object]:
    """Check settings now: the worker would only find out later."""
    if not sets:
        return {}
    from .settings import SettingsError, parse_overrides, read_settings

    try:
        read_settings(None, sets)
        return parse_overrides(sets)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None


def _since(text: str | None) -> float | None:
    from .watching.catch_up import parse_since

    return parse_since(text) if text else None


def _one_of(options: dict[str, object]) -> str:
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter(f"give one of {', '.join(options)}")
    return given[0]


def _check_fits(context: typer.Context, watched: str) -> None:
    """Refuse options that say nothing of what is watched."""
    for parameter in context.command.params:
        source, name = context.get_parameter_source(parameter.name or ""), parameter.opts[0]
        if watched not in _FITTING.get(name, watched) and source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(f"{name} goes with {' or '.join(_FITTING[name])}, not with {watched}")


def _report_each(names: list[str], take: Callable[[str], Iterable[tuple[str, Any]]]) -> None:
    """Do one after the other; one that fails does not keep the others back."""
    _each(names, lambda name: (f"{told}: {done.what}: {done.why}" for told, done in take(name)))


def _each(names: list[str], do: Callable[[str], Iterable[str]]) -> None:
    errors: list[QuietbeamError] = []
    for name in names:
        try:
            for line in do(name):
                typer.echo(line)
        except QuietbeamError as error:
            errors.append(error)
    if len(errors) == len(names) == 1:
        raise errors[0]
    for failure in errors:
        typer.echo(f"error: {failure}", err=True)
    if errors:
        raise typer.Exit(PARTIAL if len(errors) < len(names) else errors[0].exit_code)


def _report_caught(caught: list[Any]) -> None:
    for run in caught:
        typer.echo(str(run), err=run.done is None)
    queued = sum(run.done is not None and run.done.what == "queued" for run in caught)
    typer.echo(f"{queued} queued, {len(caught) - queued} not" if caught else "nothing to catch up with")
    if any(run.done is None for run in caught):
        raise typer.Exit(PARTIAL)


def _watch_folder(intake: Intake, folder: Path, pattern: str, settle: float, since: float | None) -> int:
    from .watching.folder import FolderWatcher
    from .watching.watch import watch_folder

    return watch_folder(intake, FolderWatcher(folder, pattern, settle=settle, since=since), typer.echo)


def _watch_documents(intake: Intake, address: str, prefix: str, *, bind: bool, allow_remote: bool) -> int:
    from .watching.watch import watch_documents

    options: dict[str, Any] = {"bind": bind, "allow_remote": allow_remote, "prefix": prefix.encode()}
    return watch_documents(intake, address, typer.echo, **options)


def _watch_catalogue(intake: Intake, uri: str, since: float | None) -> int:
    from .watching.watch import watch_catalogue

    with _catalogue(uri) as client:
        began = time.time() - LOOK_BACK_SECONDS if since is None else since
        return watch_catalogue(intake, client, typer.echo, since=began)


def _path_map(config: Path | None) -> tuple[tuple[str, str], ...]:
    """Tell where the worker finds the detectors' files."""
    if config is None:
        return ()
    from .jobs.worker_settings import read_worker_settings

    return read_worker_settings(config, output=Path()).path_map


def _publish_settings(config: Path | None) -> PublishSettings:
    from .jobs.worker_settings import read_worker_settings

    return read_worker_settings(config, output=Path()).publish


def _publish_pending(queue: JobQueue, settings: PublishSettings) -> None:
    from .publishing.publish import publish_pending

    outcomes = publish_pending(queue, settings)
    for outcome in outcomes:
        typer.echo(f"job {outcome.job}, {outcome.name}: {outcome.error or 'published'}", err=bool(outcome.error))
    if not outcomes:
        typer.echo("nothing waits to be published")
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed:
        raise typer.Exit(FAILED if failed == len(outcomes) else PARTIAL)


def _publish_outputs(outputs: list[Path], settings: PublishSettings) -> None:
    from .publishing.publish import publish_result

    def published(name: str) -> list[str]:
        return [f"{name}: published in {publish_result(Path(name), settings)['folder']}"]

    _each([str(output) for output in outputs], published)
