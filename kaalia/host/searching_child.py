"""A process of its own for one regular expression: JSON on stdin, lines on stdout. See `searching`."""

import json
import re
import resource
import sys
import warnings

CPU_S = 3
MEMORY_BYTES = 2**29


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    asked = json.loads(sys.stdin.buffer.read())
    found = re.compile(asked["pattern"]).search
    kept = "".join(f"{line}\n" for line in asked["text"].splitlines() if found(line))
    sys.stdout.buffer.write(kept.encode(errors="replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
