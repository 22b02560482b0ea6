"""The command `kaalia`. A command that is a program of its own is gone over to at once, before anything is imported."""

import sys

from kaalia.cli.programs import PROGRAMS, become, module


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    if args and args[0] in PROGRAMS:
        become(module(args[0]), args[1:])
    from kaalia.cli import output, questions  # noqa: PLC0415 half a second that programs need not wait for

    return output.run(questions.build(), args, "kaalia")


if __name__ == "__main__":
    sys.exit(main())
