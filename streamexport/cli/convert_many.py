"""streamexport convert-many: a list of conversions, one after the other, each with its own flags."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

from ..conversion.convert import convert, files_of
from ..conversion.done import is_done
from ..conversion.plan import Plan, plan
from ..conversion.targets import STDOUT
from ..errors import Error, FaultError, FormatError, MissingError, OutputError, missing, reason
from ..sources import stores
from . import arguments
from . import convert as command
from .saying import say, shown

TABLE = "convert"
"""What a TOML list calls each of its rows."""
INPUT, OUTPUT = "input", "output"
FAILED = "failed"
NOT_HERE = ("help", "dask", "dry-run", "quiet", "save-root", "stream")
"""Flags of `convert` that no row has."""


@dataclass(frozen=True)
class Row:
    """A conversion of a list: where it stands there, from 1, and what it is as arguments of `convert`."""

    number: int
    given: argparse.Namespace


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Converts the checkpoints of a list, each as `convert` would; a line of JSON for each on standard output. What is"
        " there already, made of this and in this way, is passed over: run it again after an interruption."
    )
    parser.add_argument(
        "list",
        metavar="LIST",
        help="NAME.csv, whose first line names the columns: input, output, and flags without their dashes; or NAME.toml with"
        f" a table [[{TABLE}]] of the same for each",
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="have the workers of this Dask scheduler write them; or `local`"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing on standard error unless it fails")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    rows = read(given.list)
    failed = 0
    with ExitStack() as stack:
        dask = None
        if given.dask:
            from ..cluster.workers import workers

            dask = stack.enter_context(workers(given.dask)).client
        progress = stack.enter_context(arguments.progress(len(rows), "converting", given.quiet, "model"))
        for row in rows:
            result = _result(row, dask)
            print(json.dumps(result), flush=True)
            failed += result["status"] == FAILED
            progress(1)
    if failed:
        raise OutputError(f"{failed} of {arguments.plural(len(rows), 'conversion')} failed", file=given.list)
    return 0


def read(path: str) -> list[Row]:
    """The conversions of a list, all of which have outputs of their own. FormatError for what is none."""
    parser = _Parser(prog="", add_help=False, allow_abbrev=False)
    command.register(parser)
    rows = []
    for number, fields in enumerate(_tables(path) if path.endswith(".toml") else _lines(path), 1):
        try:
            rows.append(Row(number, _parsed(parser, fields)))
        except ValueError as error:
            raise FormatError(str(error), file=path, tensor=f"row {number}") from None
    if not rows:
        raise FormatError("lists no conversion", file=path, advice="see `streamexport convert-many --help`")
    known: dict[str, int] = {}
    for row in rows:
        for name in filter(None, (row.given.output, row.given.prototxt)):
            name = name if stores.is_url(name) else os.path.realpath(name) + "/" * name.endswith("/")
            first = known.setdefault(name, row.number)
            if first != row.number and not name.endswith("/"):
                what = f"rows {first} and {row.number} have one output, {name}"
                raise FormatError(what, file=path, advice="give each its own")
    return rows


Fields = Sequence[tuple[str, Any]]
"""Columns of a row, or keys of a table, by name: a name may stand there several times."""


def _lines(path: str) -> Iterator[Fields]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # noqa: PTH123
            lines = csv.reader(file, strict=True)
            names = [name.strip() for name in next(lines, [])]
            for line in lines:
                if len(line) > len(names):
                    raise FormatError(f"line {lines.line_num} has more cells than there are columns", file=path)
                cells = [(name, cell.strip()) for name, cell in zip(names, line, strict=False) if cell.strip()]
                if cells:
                    yield cells
    except OSError as error:
        raise FormatError(f"cannot be read: {reason(error)}", file=path) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"is no CSV: {error}", file=path) from None


def _tables(path: str) -> Iterator[Fields]:
    if sys.version_info < (3, 11):
        raise MissingError("TOML takes Python 3.11 or newer", file=path, advice="write the list as CSV")
    import tomllib  # type: ignore[import-not-found,unused-ignore]

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            held = tomllib.load(file)
    except OSError as error:
        raise FormatError(f"cannot be read: {reason(error)}", file=path) from None
    except ValueError as error:
        raise FormatError(f"is no TOML: {error}", file=path) from None
    tables = held.pop(TABLE, [])
    if held or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        strange = f"{next(iter(held))!r}" if held else f"{TABLE!r} that is no table"
        raise FormatError(f"has {strange}, where there are only tables [[{TABLE}]]", file=path)
    for table in tables:
        yield [(name, one) for name, value in table.items() for one in (value if isinstance(value, list) else [value])]


class _Parser(argparse.ArgumentParser):
    """Understands a row as `convert` understands its arguments; what it does not is a ValueError."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parsed(parser: argparse.ArgumentParser, fields: Fields) -> argparse.Namespace:
    """A row as arguments of `convert`. ValueError for what can be none."""
    flags = {flag[2:]: action for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    known = [name for name in flags if name not in NOT_HERE]
    words, inputs = [], []
    for name, value in fields:
        if not isinstance(value, str | int | float):
            raise ValueError(f"{name} is neither a text nor a number")
        flag, text = name.replace("_", "-"), str(value).lower() if isinstance(value, bool) else str(value)
        if name == INPUT:
            inputs.append(text)
        elif flag not in known:
            raise ValueError(f"there is no {name!r}; known are {INPUT}, {', '.join(known)}")
        elif flags[flag].nargs != 0:
            words.append(f"--{flag}={text}")
        elif text not in ("true", "false"):
            raise ValueError(f"{name} is {text!r}, not true or false")
        elif text == "true":
            words.append(f"--{flag}")
    if OUTPUT not in dict(fields) or dict(fields)[OUTPUT] == STDOUT:
        raise ValueError(f"it has no {OUTPUT}, a file, a directory or a URL")
    return parser.parse_args([*words, "--quiet", "--", *inputs])


def _result(row: Row, dask: Any) -> dict[str, Any]:
    """What became of a row."""
    start = time.monotonic()
    said = {"row": row.number, "inputs": [*map(str, row.given.inputs)], "output": row.given.output}
    try:
        status, made = _converted(row.given, dask)
    except Exception as error:  # it is no reason not to make the others
        line = shown(str(_known(error)))
        say(f"row {row.number}: {line}")
        return {**said, "status": FAILED, "error": line}
    files = {name: layout.size for name, layout in made.parts}
    notes = [shown(note) for note in made.notes]
    return {**said, "status": status, "files": files, "notes": notes, "seconds": round(time.monotonic() - start, 3)}


def _known(error: Exception) -> Error | str:
    """An error as a line that says what is wrong, or that it is a fault of ours."""
    if isinstance(error, Error):
        return error
    if isinstance(error, ImportError):
        return missing(error) or FaultError.of(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for this"
    return (
        f"{error.filename}: {reason(error)}" if isinstance(error, OSError) and error.filename else FaultError.of(error)
    )


def _converted(given: argparse.Namespace, dask: Any) -> tuple[str, Plan]:
    """Whether something was to be done, and what is there now."""
    options = arguments.chosen(given)
    inputs, check_hash = command.checkpoints(given, options.net)
    files = {"form": given.format, "max_file_size": given.max_file_size, "align": given.align}
    is_new = not (given.max_file_size or stores.is_url(given.output) or os.path.exists(given.output))
    if not is_new:
        made = plan(inputs, given.output, options, **files)
        model, description, _ = files_of(made, given.prototxt)
        if is_done([*model, *([description] if description else [])]):
            return "skipped", made
    rest = {"prototxt": given.prototxt, "force": given.force, "check_hash": check_hash, "resume": given.resume}
    return "converted", convert(inputs, given.output, options, **files, **rest, dask=dask)
