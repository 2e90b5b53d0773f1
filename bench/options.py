"""Command lines from dataclasses: each field is an option, and its metadata is what `--help` says of it."""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar


class Refused(ValueError):
    """What a command cannot do as it is asked; its message is all that is printed."""


def option(default: Any, help: str, **words: Any) -> Any:
    """A field that is an option of the same name; a bool is a flag, and a tuple takes one value or more.

    Args:
        default: of the field; MISSING makes it a positional argument.
        help: what `--help` says; `choices` and the default are added.
        words: further words of `add_argument`.
    """
    if choices := words.get("choices"):
        words.setdefault("metavar", "NAME")
        help += f", of {', '.join(choices)}"
    if default not in (None, False, (), MISSING):
        help += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
    if default is False:
        words["action"] = "store_true"
    elif isinstance(default, tuple) or default is MISSING:
        words["nargs"] = "+"
    return field(default=default, metadata={"help": help.replace("%", "%%"), **words})


def positive(kind: type) -> Any:
    """A type of `add_argument`: a number of this type above 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
        return value

    return parse


@dataclass(kw_only=True)
class Command:
    """A command: its fields are its options, the first line of its docstring is its help."""

    name: ClassVar[str]

    def run(self) -> int:
        """The exit status.

        Raises:
            Refused: when it cannot be done.
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class OfFiles(Command):
    """A command over files of results."""

    files: Sequence[Path] = option(MISSING, "written by --json of the other commands", type=Path, metavar="FILE")


def run_command(commands: Sequence[type[Command]], arguments: Sequence[str] | None, program: str, about: str) -> int:
    """Runs the command that the arguments name; ends the process with its message where it refuses."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    subparsers = parser.add_subparsers(dest="command", required=True)
    parsers = {}
    for command in commands:
        title, _, more = (command.__doc__ or "").partition("\n")
        parsers[command.name] = own = subparsers.add_parser(
            command.name, help=title, description=title, epilog=more, formatter_class=argparse.RawTextHelpFormatter
        )
        for each in fields(command):
            positional = each.default is MISSING
            name = each.name if positional else f"--{each.name.replace('_', '-')}"
            words: dict[str, Any] = {} if positional else {"default": each.default}
            own.add_argument(name, **each.metadata, **words)
    options = vars(parser.parse_args(arguments))
    name = options.pop("command")
    try:
        return next(each for each in commands if each.name == name)(**options).run()
    except Refused as error:
        parsers[name].error(str(error))
