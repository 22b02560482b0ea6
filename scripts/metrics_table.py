"""Writes docs/reference/metrics.md from the definitions in kaalia/api/metrics.

`--check` compares instead of writing, and exits 1 when the page is out of date.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from kaalia.api.metrics.catalogue import GROUPS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "metrics.md"
HEAD = """# Metrics

All that `/metrics` tells, made from the definitions by `scripts/format`. How to read it: [metrics.md](../metrics.md).

Units are base units and stand in the name. A value that is not known is absent, never 0. `gpu` is a GPU's UUID,
`contract` and `volume` are numbers. Tenant: what `/metrics?contract=ID` shows of that contract and its GPUs.
"""


def main() -> int:
    page = "\n".join((HEAD.rstrip(), *tables(), ""))
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != page:
            print("docs/reference/metrics.md is out of date: run scripts/format", file=sys.stderr)
            return 1
        return 0
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
    return 0


def tables() -> Iterator[str]:
    for title, metrics in GROUPS:
        yield f"\n## {title}\n"
        yield "| Metric | Type | Labels | Tenant | Meaning |"
        yield "|---|---|---|---|---|"
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            tenant = "yes" if metric.is_tenants else ""
            yield f"| `{metric.name}` | {metric.kind} | {labels} | {tenant} | {metric.help} |"


if __name__ == "__main__":
    sys.exit(main())
