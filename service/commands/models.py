"""`python -m service models`: the folder of models from the command line.

Each command changes the disk alone, and says in a line what it did. Owns the words; what they do is the repository's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from service.errors import BertieError, BundleError
from service.repository import files, plan, versions
from service.repository.plan import Plan
from service.repository.versions import StoredModel, Version

MODELS_DIR = "BERTIE_MODELS_DIR"
HEADINGS = ("model", "version", "roles", "task", "precision", "MB", "created", "digest")
NUMBERS = ("MB",)


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()  # a reader that has gone is noticed here, not when the interpreter ends
    except BertieError as error:
        _complain(error.detail)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _complain(detail: str) -> None:
    print("models:", detail.replace("\n", " "), file=sys.stderr)


# ---- list -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """What a version's manifest says of it, unchecked, and its roles."""

    model: str
    version: str
    roles: tuple[str, ...]
    task: str
    precisions: tuple[str, ...]
    bytes: int
    created: str
    digest: str

    @property
    def cells(self) -> tuple[str, ...]:
        megabytes = f"{self.bytes / 1e6:.1f}"
        roles, precisions = ", ".join(self.roles), ", ".join(self.precisions)
        return self.model, self.version, roles, self.task, precisions, megabytes, self.created, self.digest


def _list(options: argparse.Namespace) -> int:
    rows, faults = [], []
    for model in versions.find(options.models_dir, options.names):
        try:
            roles = plan.read(model.folder)
        except BundleError as error:
            roles = Plan()
            faults.append(error.detail)
        for version in model.versions:
            try:
                rows.append(_row(version, roles))
            except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
                faults.append(f"{model.name} {version.name}: its bundle cannot be read: {_reason(error)}")
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for line in _table([row.cells for row in rows]):
            print(line)
    for fault in faults:
        _complain(fault)
    return 1 if faults else 0


def _row(version: Version, roles: Plan) -> Row:
    # Not by `manifest.parse`, which knows the tasks: their imports take longer than all the rest.
    content = files.read_manifest(version.folder)
    said = json.loads(content)
    size = len(content) + sum((version.folder / name).stat().st_size for name in said["files"])
    precisions = tuple(dict.fromkeys(_plain(graph["precision"]) for graph in said["graphs"]))
    task, created = _plain(said["task"]), _plain(said.get("created", ""))
    digest = files.digest(content)
    return Row(version.model, version.name, _roles(roles, version.name), task, precisions, size, created, digest)


def _plain(value: str) -> str:
    """Refuse what would write elsewhere on a terminal."""
    if not value.isprintable():
        raise ValueError(f"{value!r:.100} is no plain text")
    return value


def _roles(roles: Plan, version: str) -> tuple[str, ...]:
    percents = {role: tried.percent for role, tried in (("canary", roles.canary), ("shadow", roles.shadow)) if tried}
    return tuple(f"{role} {percents[role]:g}%" if role in percents else role for role in roles.roles(version))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    for row in (HEADINGS, *rows):
        cells = zip(HEADINGS, row, widths, strict=True)
        yield "  ".join(cell.rjust(n) if name in NUMBERS else cell.ljust(n) for name, cell, n in cells).rstrip()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return f"its manifest has no {error}" if isinstance(error, KeyError) else str(error)


# ---- the versions on disk -------------------------------------------------------------------------------------------


def _add(options: argparse.Namespace) -> int:
    from service.repository import installing

    version = installing.install(_source(options.source), options.models_dir, options.name, options.version)
    roles = plan.read(options.models_dir / options.name).roles(version.name)
    does = "it is stable" if roles else "it answers nothing yet: promote it, or try it as canary or shadow"
    print(f"{version.model}: version {version.name} added; {does}")
    return 0


def _source(reference: str) -> Path:
    """Get the folder of the bundle that a reference names, fetched where it is elsewhere."""
    if "://" in reference:
        from service.repository import sources
        from service.settings import Settings

        return sources.locate(reference, Settings())
    folder = Path(reference).absolute()
    if not folder.is_dir():
        raise BundleError(f"there is no folder {reference!r}: give the folder of a bundle")
    return folder


def _remove(options: argparse.Namespace) -> int:
    from service.repository import installing

    installing.remove(_model(options), options.version)
    print(f"{options.name}: version {options.version} removed")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from service.engine.processor import cpu_quota
    from service.repository import bundle as bundles
    from service.repository import golden
    from service.repository.loading import open_task, warm_up
    from service.repository.opening import open_engine

    model = _model(options)
    status = 0
    for version in model.versions if options.version is None else (model.version(options.version),):
        try:
            bundle = bundles.load(version.folder, version.name)
            tokenizer, task = open_task(bundle)
            engine, graph = open_engine(bundle, device=options.device, workers=1, intra_op_threads=0, cores=cpu_quota())
            warm_up(bundle, task, tokenizer, engine)
            rows = golden.check(bundle, tokenizer, task, engine)
        except BertieError as error:
            _complain(f"{model.name} {version.name}: {error.detail}")
            status = 1
        else:
            print(
                f"{model.name}: version {version.name} is whole: {len(bundle.manifest.files)} files have their hashes, "
                f"{graph.file} runs on {engine.provider}, "
                + (f"{rows} golden rows agree" if rows else f"it has no golden rows for {engine.arithmetic}")
            )
    return status


# ---- the plan -------------------------------------------------------------------------------------------------------


def _promote(options: argparse.Namespace) -> int:
    with plan.edit(_model(options).folder) as edit:
        edit.plan = plan.promote(edit.plan, options.version)
    back = f"; version {edit.plan.previous[0]} can come back by rollback" if edit.plan.previous else ""
    print(f"{options.name}: version {edit.plan.stable} is stable{back}")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    with plan.edit(_model(options).folder) as edit:
        before = edit.plan
        edit.plan = plan.rollback(before)
    if before.canary is not None:
        print(f"{options.name}: version {before.canary.version} is canary no more; version {before.stable} is stable")
    else:
        print(f"{options.name}: version {edit.plan.stable} is stable again, and version {before.stable} no more")
    return 0


def _canary(options: argparse.Namespace) -> int:
    with plan.edit(_model(options).folder) as edit:
        edit.plan = plan.canary(
            edit.plan, options.version, options.percent, header=options.header, sticky=options.sticky
        )
    header = f" and those with {options.header}: true" if options.header else ""
    sticky = f", the same for the same {options.sticky}" if options.sticky else ""
    print(
        f"{options.name}: version {options.version} is canary: it answers {options.percent:g} % of the requests{header}"
        f"{sticky}; version {edit.plan.stable} is stable"
    )
    return 0


def _shadow(options: argparse.Namespace) -> int:
    with plan.edit(_model(options).folder) as edit:
        edit.plan = plan.shadow(edit.plan, options.version, options.percent)
    print(
        f"{options.name}: version {options.version} is shadow: it runs {options.percent:g} % of what version "
        f"{edit.plan.stable} answers, and the answers are compared"
    )
    return 0


def _end(options: argparse.Namespace) -> int:
    with plan.edit(_model(options).folder) as edit:
        before = edit.plan
        edit.plan = plan.end(before)
    ended = [
        f"{role} {tried.version}" for role, tried in (("canary", before.canary), ("shadow", before.shadow)) if tried
    ]
    print(f"{options.name}: {' and '.join(ended)} ended; version {edit.plan.stable} is stable")
    return 0


def _rule(options: argparse.Namespace) -> int:
    with plan.edit(_model(options).folder) as edit:
        if options.off:
            edit.plan = replace(edit.plan, rule=None)
        else:
            edit.plan = plan.set_rule(edit.plan, options.compared, options.agreement, options.p95_ratio)
    if edit.plan.rule is None:
        print(f"{options.name}: no rule; a person promotes")
    else:
        print(
            f"{options.name}: when {options.compared} requests have been compared, the shadow is promoted if agreement "
            f">= {options.agreement:g} and p95 <= {options.p95_ratio:g} x stable's, else canary and shadow end"
        )
    return 0


def _model(options: argparse.Namespace) -> StoredModel:
    return versions.find(options.models_dir, (options.name,))[0]


# ---- the command line -----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service models",
        description="List, add, check and remove versions of models, and say which of them answer. The folder changes; "
        "a service that runs sees it where it watches the folder, or when it starts again.",
    )
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--models-dir",
        type=Path,
        default=Path(os.environ.get(MODELS_DIR) or "models"),
        help=f"the folder of models [{MODELS_DIR}, else models]",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, does: str, *, model: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[folder], help=does, description=does)
        added.set_defaults(run=run)
        if model:
            added.add_argument("name", metavar="NAME", help="the model")
        return added

    listing = command("list", _list, "List the versions and their roles.", model=False)
    listing.add_argument("names", metavar="NAME", nargs="*", help="a model [all]")
    listing.add_argument("--json", action="store_true", help="as JSON")

    add = command("add", _add, "Copy a bundle into the folder, checked, as a version that answers nothing yet.")
    add.add_argument("source", metavar="SOURCE", help="the bundle's folder")
    add.add_argument("--version", help="what to call it [the next number; the digest beside names that are no numbers]")

    remove = command("remove", _remove, "Remove a version that is neither stable nor canary nor shadow.")
    remove.add_argument("version", metavar="VERSION")

    verify = command("verify", _verify, "Check files by their hashes, and run the graph.")
    verify.add_argument("version", metavar="VERSION", nargs="?", help="[all of the model]")
    verify.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run [auto]")

    promote = command("promote", _promote, "Make a version stable: it answers.")
    promote.add_argument("version", metavar="VERSION", nargs="?", help="[the canary, else the shadow]")

    command("rollback", _rollback, "End the canary; without one, make the version stable that was so before.")

    canary = command("canary", _canary, "Let a version answer a part of the requests, in place of the last canary.")
    canary.add_argument("version", metavar="VERSION")
    canary.add_argument("--percent", type=float, required=True, help="of the requests")
    canary.add_argument("--header", help="a header by which requests ask for it (HEADER: true)")
    canary.add_argument("--sticky", metavar="HEADER", help="a header whose value decides instead of chance")

    shadow = command("shadow", _shadow, "Run a part of the requests on a version too, and compare the answers.")
    shadow.add_argument("version", metavar="VERSION")
    shadow.add_argument("--percent", type=float, required=True, help="of the requests")

    command("end", _end, "End canary and shadow.")

    rule = command("rule", _rule, "Say when a shadow is promoted, else ended, without a person.")
    rule.add_argument("--compared", type=int, default=2000, help="requests to compare first [2000]")
    rule.add_argument("--agreement", type=float, default=0.98, help="least share with the same answer [0.98]")
    rule.add_argument("--p95-ratio", type=float, default=1.2, help="most of its p95 over stable's [1.2]")
    rule.add_argument("--off", action="store_true", help="no rule")
    return parser
