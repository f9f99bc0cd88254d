"""A command line made of modules: how it is read, run and ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ...core.errors import UserError, out_of_memory
from .console import Console, print_anything, quiet_libraries
from .options import add_json_option, check_file

EXIT_CODES = "Exit codes: 0 done, 1 input that can't be used (one sentence says why), 2 wrong usage, 130 interrupted."


def run_command(
    package: str, description: str, commands: Mapping[str, str], arguments: Sequence[str] | None, wing: str = ""
) -> int:
    """Runs the command that `arguments` name, and gives the exit code.

    commands: what each does, by its name. Its module, of that name in the package's part `wing`, has `add_arguments`
    and `run`, and is imported for this command alone. Each has the option --json; a module with commands of its own
    gives it to them.
    """
    print_anything()
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=f"{description} {EXIT_CODES}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, says in commands.items():
        command = subparsers.add_parser(name, help=says)
        if name in given[:1]:
            module = import_module(f"{package}{wing}.{name.replace('-', '_')}")
            command.description = module.__doc__
            module.add_arguments(command)
            if not command._subparsers:
                add_json_option(command)
            command.set_defaults(run=module.run)
    parsed = parser.parse_args(given)
    try:
        check_file("--json", parsed.json)
        quiet_libraries()
        parsed.run(parsed, Console(parsed.json))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        what = next(iter(str(error).splitlines()), "nothing was left")
        sys.stderr.write(f"Memory ran out ({what}); choose smaller or fewer pictures, or close other programs.\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
