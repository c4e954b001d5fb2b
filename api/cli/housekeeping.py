"""``corral gc`` and ``verify``: frees what no model needs, and checks what is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import click

from corral.api.cli.output import echo, human_bytes, plain, print_json, print_table
from corral.api.cli.parameters import ModelText
from corral.api.cli.progress import transfer_progress
from corral.api.cli.session import Session
from corral.core.catalog.garbage import Garbage, GarbageReport
from corral.core.catalog.verifying import VerifyReport
from corral.core.models.digests import short_digest
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("gc", "verify")

_NAMES = {
    "blob": "blob of no model",
    "derived": "converted model without its source",
    "partial": "unfinished download",
    "scratch": "left by a dead process",
    "temporary": "temporary file",
    "folder": "links for a model that is gone",
    "note": "note on a blob that is gone",
    "changed": "imported file that has changed",
    "foreign": "Ollama's unfinished download",
    "empty": "empty folder",
    "quarantined": "broken blob, put aside",
}


@click.command()
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@click.option("--partials", is_flag=True, help="Also delete unfinished downloads that the next pull could continue.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def gc(session: Session, dry_run: bool, partials: bool, as_json: bool) -> None:
    """Delete what no model needs: blobs, leftovers of processes that died, old unfinished downloads.

    What is in use, and what was stored within the last hour, stays. A server may be running meanwhile.
    """
    with session.library() as corral:
        report = corral.gc(dry_run=dry_run, partials=partials)
    if as_json:
        print_json(_plain_garbage(report))
        return
    _print_garbage(report.removed)
    for garbage in report.kept:
        echo(f"kept: {_NAMES[garbage.kind]} {garbage.name} ({human_bytes(garbage.size_bytes)}): {garbage.reason}")
    done = "would free" if dry_run else "freed"
    echo(f"{done} {human_bytes(report.removed_bytes)}, {_counted(report.removed)}")


@click.command()
@click.argument("models", nargs=-1, type=ModelText())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def verify(context: click.Context, models: tuple[str, ...], as_json: bool) -> None:
    """Read every blob in the store, or those of MODELS, and check that its bytes are what its digest promises.

    A broken blob is moved aside, so that pulling its model again repairs it. The exit status is 1 if anything is
    broken or missing. Models in use are not disturbed.
    """
    session = context.find_object(Session)
    assert session is not None
    with session.library() as corral, transfer_progress() as show:
        report = corral.verify(*models, on_progress=show)
    if as_json:
        print_json(_plain_faults(report))
    else:
        _print_faults(report)
    if not report.is_whole:
        context.exit(1)


def _print_garbage(removed: Sequence[Garbage]) -> None:
    if removed:
        rows = [(_NAMES[garbage.kind], garbage.name, human_bytes(garbage.size_bytes)) for garbage in removed]
        print_table(("WHAT", "NAME", "SIZE"), rows)


def _counted(removed: Sequence[Garbage]) -> str:
    counts: defaultdict[str, int] = defaultdict(int)
    for garbage in removed:
        counts[_NAMES[garbage.kind]] += 1
    return "; ".join(f"{count} x {name}" for name, count in counts.items()) or "nothing to delete"


def _plain_garbage(report: GarbageReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "removed_bytes": report.removed_bytes,
        "removed": [plain(garbage) for garbage in report.removed],
        "kept_bytes": report.kept_bytes,
        "kept": [plain(garbage) for garbage in report.kept],
    }


def _plain_faults(report: VerifyReport) -> dict[str, object]:
    return {
        "is_whole": report.is_whole,
        "blobs": report.blobs,
        "size_bytes": report.size_bytes,
        **{kind: [plain(fault) for fault in getattr(report, kind)] for kind in ("broken", "missing", "unreadable")},
    }


def _print_faults(report: VerifyReport) -> None:
    for broken in report.broken:
        echo(f"broken: blob {short_digest(broken.digest)} ({human_bytes(broken.size_bytes)}): {broken.fault}")
        if broken.quarantined_at:
            echo(f"  moved to {broken.quarantined_at}")
        _print_hurt(broken.models)
    for missing in report.missing:
        echo(f"missing: blob {short_digest(missing.digest)} is not in the store, or has changed since it was imported")
        _print_hurt(missing.models)
    for unreadable in report.unreadable:
        echo(f"unreadable: {unreadable.model or 'a manifest'}: {unreadable.fault}")
    checked = f"{report.blobs} blobs, {human_bytes(report.size_bytes)}"
    echo(f"{checked}: all whole" if report.is_whole else f"{checked} checked")


def _print_hurt(models: Sequence[str]) -> None:
    if not models:
        echo("  no model needs it")
    for model in models:
        if model.startswith(f"{DERIVED_HOST}/"):
            echo(f"  needed by {model}: it is converted again when it is next used")
        else:
            echo(f"  needed by {model}: pull or import it again")
