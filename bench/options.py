"""Command lines from dataclasses: each field is an option, and its metadata is what `--help` says of it."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar


class Refused(ValueError):
    """What a command cannot do as it is asked; its message is all that is printed."""


def option(default: Any, help: str, type: Callable[[str], Any] = str, **words: Any) -> Any:
    """A field that is an option of the same name: a bool is a flag, and a tuple takes one value or more.

    Args:
        default: of the field; MISSING makes it a positional argument.
        help: what `--help` says; `choices` and the default are added.
        type: of a value.
        words: further words of `add_argument`.
    """
    if choices := words.get("choices"):
        words["metavar"] = "NAME"
        help += f", of {', '.join(choices)}"
    if default not in (None, False, (), MISSING):
        help += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
    words |= {"action": "store_true"} if default is False else {"type": type}
    words |= {"nargs": "+"} if isinstance(default, tuple) or default is MISSING else {}
    words |= {} if default is MISSING else {"default": default}
    return field(default=default, metadata={"help": help.replace("%", "%%"), **words})


def positive(kind: type) -> Any:
    """A type of `option`: a number of this type above 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
        return value

    return parse


@dataclass(kw_only=True)
class Command(ABC):
    """A command: its fields are its options, the first line of its docstring is its help."""

    name: ClassVar[str]

    @abstractmethod
    def run(self) -> int:
        """The exit status; raises `Refused` when it cannot be done."""


def run_command(commands: Sequence[type[Command]], arguments: Sequence[str] | None) -> int:
    """Runs the command that the arguments name; ends the process with its message where it refuses."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of torchclip.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    parsers = {}
    for command in commands:
        title, _, more = (command.__doc__ or "").partition("\n")
        parsers[command.name] = own = subparsers.add_parser(
            command.name, help=title, description=title, epilog=more, formatter_class=argparse.RawTextHelpFormatter
        )
        for each in fields(command):
            own.add_argument(
                each.name if each.default is MISSING else f"--{each.name.replace('_', '-')}", **each.metadata
            )
    options = vars(parser.parse_args(arguments))
    name = options.pop("command")
    try:
        return next(each for each in commands if each.name == name)(**options).run()
    except Refused as error:
        parsers[name].error(str(error))
