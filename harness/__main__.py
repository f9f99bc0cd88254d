"""`python -m conceptlens.harness COMMAND`: the pack's methods without ComfyUI.

Exit codes: 0 done, 1 input that can't be used (one sentence says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..core.errors import UserError
from . import edit
from .console import Console, quiet_libraries


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conceptlens.harness", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("edit", help=edit.__doc__, description=edit.__doc__)
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, the rest on stderr")
    edit.add_arguments(command)
    command.set_defaults(run=edit.run)
    parsed = parser.parse_args(arguments)
    try:
        quiet_libraries()
        parsed.run(parsed, Console(parsed.json))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
