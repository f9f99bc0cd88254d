"""`python -m conceptlens.harness COMMAND`: the pack's methods without ComfyUI.

Exit codes: 0 done, 1 input that can't be used (one sentence says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..core.errors import UserError, out_of_memory
from . import (
    bench_bias,
    bench_concepts,
    bench_hspace,
    bench_pictures,
    bias,
    card,
    conceptor_eval,
    decompose,
    edit,
    explain,
    hspace,
    mix,
    timed,
    vocab,
)
from .console import Console, print_anything, quiet_libraries
from .options import add_json_option

COMMANDS = {
    "edit": edit,
    "vocab": vocab,
    "decompose": decompose,
    "mix": mix,
    "explain": explain,
    "bias": bias,
    "card": card,
    "hspace": hspace,
    "timed": timed,
    "conceptor-eval": conceptor_eval,
    "bench-concepts": bench_concepts,
    "bench-hspace": bench_hspace,
    "bench-pictures": bench_pictures,
    "bench-bias": bench_bias,
}
# Measures go to a file there; h-space has the option at its own commands.
OWN_JSON = (bench_bias, bench_concepts, bench_hspace, bench_pictures, conceptor_eval, hspace, timed)


def main(arguments: Sequence[str] | None = None) -> int:
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m conceptlens.harness", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        if module not in OWN_JSON:
            add_json_option(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        quiet_libraries()
        parsed.run(parsed, Console(parsed.json is True))
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


if __name__ == "__main__":
    sys.exit(main())
