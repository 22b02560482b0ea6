"""The rules of the house as code: each takes one module's syntax tree and says what is wrong with it.

`tests/test_architecture.py` holds every module against every rule, and seeds a violation of each to prove it is seen.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 400

GROUND_FLOOR = frozenset(
    {
        "__init__",
        "errors",
        "clock",
        "units",
        "log",
        "config",
        "config_canary",
        "config_section",
        "config_metrics",
        "config_network",
        "config_notify",
        "config_policy",
        "config_power",
    }
    | {"service", "pulse"}
)
"""Everyone may import these; they import only each other."""
MAY_IMPORT: dict[str, frozenset[str]] = {
    unit: frozenset(others.split())
    for unit, others in {
        "model": "",
        "contracts": "model",
        "host": "model",
        "wire": "model contracts",
        "store": "model contracts wire",
        "runtime": "model contracts host",
        "capability": "model contracts wire host store runtime",
        "health": "model contracts wire host store runtime",
        "selftest": "model contracts wire host store runtime",
        "sync": "model contracts wire store",
        "reconciler": "model contracts wire store runtime",
        # The machine's side of relays: rows in, ssh out.
        "tunnel": "model contracts wire host store",
        # Power limits and clocks of the GPUs: rows in, the driver out.
        "power": "model contracts host store",
        # Tells the owner: rows in, processes that deliver out.
        "notify": "model contracts wire host store",
        # Renters' copies: doors for rsync, and the cells behind them.
        "transfer": "model contracts wire host store runtime",
        "api": "model contracts wire store",
        # A service of its own, which a marketplace may offer too: it knows neither daemon nor marketplace.
        "prober": "model wire",
        # Moves bytes, as a program of its own on either side: who measures or serves only starts it.
        "speed": "model wire",
        # A service of its own too: sshd, and who may listen where.
        "relay": "model contracts wire host",
        # The marketplace could leave for its own repository tomorrow, and take the prober along.
        "marketplace": "model contracts wire prober",
        "client": "model contracts wire",
        # Enrolment reads the hardware before the daemon runs; the doctor explains by the catalogues of health;
        # `serve` and `users` work on the marketplace itself.
        "cli": "model contracts wire host store capability health notify power sync client prober speed relay "
        "marketplace",
        "daemon": "model contracts wire host store runtime capability health selftest sync reconciler tunnel "
        "transfer notify power api "
        "marketplace",
    }.items()
}
"""Which units a unit may import, beside itself and the ground floor. A new word here needs an argument in review."""
SEAM = "kaalia.runtime.base"
SEAM_USERS = frozenset({"sync", "api"})
"""Units that may name the seam between rules and hands, but no hand: sync fetches a `RegistryLogin`, the API logs."""

DOORS: dict[str, tuple[str, ...]] = {
    "pynvml": ("kaalia.host.nvml_probe", "kaalia.host.nvml_inventory", "kaalia.host.power_probe"),
    "psutil": ("kaalia.host.system",),
    "docker": ("kaalia.runtime.container.link",),
    "requests": ("kaalia.runtime.container.link",),
    "urllib3": ("kaalia.runtime.container.link",),
    "sqlite3": ("kaalia.store.database",),
    "subprocess": ("kaalia.host.process",),
    "yaml": ("kaalia.config",),
    "typer": ("kaalia.cli",),
    "click": ("kaalia.cli",),
    "rich": ("kaalia.cli",),
    "prometheus_client": ("kaalia.api.metrics.exposition",),
    "sqlalchemy": ("kaalia.marketplace",),
    "http_message_signatures": ("kaalia.wire.signature",),
    "cryptography": (
        "kaalia.wire.signature",
        "kaalia.wire.authority",
        "kaalia.marketplace.authority",
        "kaalia.marketplace.keys",
        "kaalia.marketplace.sealing",
    ),
}
"""The only modules, or the only unit, that may import a library."""
TYPES = frozenset({"cryptography.hazmat.primitives.asymmetric.ed25519.Ed25519PrivateKey"})
"""Names that may be imported anywhere, as types: a key is handed from the one who loads it to the one who signs."""

LATE = frozenset(
    {
        ("kaalia.daemon.notifications", "kaalia.notify.service.NotificationService"),
        ("kaalia.api.metrics.scrape", "kaalia.api.metrics.text"),
        ("kaalia.daemon.tenants", "kaalia.selftest.trial.Trials"),
        ("kaalia.daemon.power", "kaalia.power.service.PowerService"),
        ("kaalia.cli.main", "kaalia.cli.output"),
        ("kaalia.cli.main", "kaalia.cli.questions"),
    }
)
"""(module, name): what few machines need and each daemon would keep in memory, or each command wait for.

It is imported where it is wanted."""

PURE = (
    "kaalia.model",
    "kaalia.contracts",
    "kaalia.wire",
    "kaalia.reconciler.diff",
    "kaalia.reconciler.notes",
    "kaalia.reconciler.seen",
    "kaalia.reconciler.to_run",
    "kaalia.reconciler.findings",
    "kaalia.reconciler.quantities",
    "kaalia.runtime.container.spec",
    "kaalia.runtime.sandbox.port_rules",
    "kaalia.runtime.sandbox.rules",
)
IMPURE = frozenset(
    {
        *("asyncio", "concurrent", "threading", "multiprocessing", "signal", "subprocess"),
        *("time", "random", "secrets", "uuid", "logging"),
        *("os", "pathlib", "io", "tempfile", "shutil", "glob", "sqlite3"),
        *("socket", "ssl", "select", "http", "urllib.request", "aiohttp", "requests"),
        *("kaalia.clock", "kaalia.log", "kaalia.service", "kaalia.config"),
    }
)
"""What a pure module does not import: tasks, clocks, randomness, files, network, logs. Time is an argument."""

BANNED_NAMES = frozenset({"util", "utils", "common", "helper", "helpers", "misc", "const", "constants", "manager"})
TASK_STARTERS = frozenset({"create_task", "ensure_future"})
CLOCK_CALLS = frozenset({"now", "utcnow", "today", "time", "time_ns"})
CLOCKS = frozenset({"datetime", "date", "time", "dt"})
PROCESS_CALLS = frozenset(
    {"create_subprocess_exec", "create_subprocess_shell", "system", "popen", "posix_spawn", "fork"}
)
FORKS = frozenset({("kaalia.host.nvml_look_child", "fork")})
"""A program of its own, isolated: it can import nothing of kaalia, and forks itself only."""

PROCESS_STARTERS = frozenset({"kaalia.host.process", "kaalia.selftest.work.cpu"})
"""The second is a program of its own, which imports nothing of the daemon: it forks for each core."""


@dataclass(frozen=True)
class Module:
    """One file of the package. `name` is dotted; a package's `__init__` bears the name of the package."""

    name: str
    source: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


def parse(name: str, source: str) -> Module:
    return Module(name, source, ast.parse(source))


def read(folder: str) -> dict[str, Module]:
    """Every module below a folder of the repository, by dotted name."""
    modules = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = parse(name, path.read_text())
    return modules


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a tree imports, one per name: `from a.b import c` is `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def direction(module: Module) -> Iterator[str]:
    """Imports point downwards, as the table says."""
    own = module.unit
    allowed = GROUND_FLOOR if own in GROUND_FLOOR else GROUND_FLOOR | MAY_IMPORT.get(own, frozenset()) | {own}
    if own not in GROUND_FLOOR and own not in MAY_IMPORT:
        yield f"the unit {own} has no row in MAY_IMPORT"
    for name in imports(module.tree):
        parts = name.split(".")
        if parts[0] != "kaalia":
            continue
        unit = parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT.keys() | GROUND_FLOOR else "__init__"
        is_seam = own in SEAM_USERS and _is_within(name, (SEAM,))
        if unit not in allowed and not is_seam:
            yield f"{own} may not import {unit} ({name}), only {', '.join(sorted(allowed - {own}))}"


def doors(module: Module) -> Iterator[str]:
    """One door per library, and processes are started in one place."""
    for name in imports(module.tree):
        library = name.partition(".")[0]
        places = DOORS.get(library)
        if places and name not in TYPES and not _is_within(module.name, places):
            yield f"{library} is imported only in {', '.join(places)}"
    if module.name not in PROCESS_STARTERS:
        for call in _calls(module.tree):
            if call in PROCESS_CALLS and (module.name, call) not in FORKS:
                yield f"{call}() is called only in kaalia.host.process"


def purity(module: Module) -> Iterator[str]:
    """Rules, nouns and codecs go from values to values."""
    if not _is_within(module.name, PURE):
        return
    for name in imports(module.tree):
        if any(name == impure or name.startswith(f"{impure}.") for impure in IMPURE):
            yield f"a pure module imports no {name}: take what it gives as an argument"
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"open", "print", "input"}
        ):
            yield f"a pure module does not call {node.func.id}()"
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"a pure module has no coroutine such as {node.name}()"


def import_form(module: Module) -> Iterator[str]:
    """Imports are absolute and stand at the top: with no cycles nothing else is needed."""
    top = {id(node) for node in module.tree.body}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: a relative import"
        is_late = isinstance(node, ast.ImportFrom) and all((module.name, name) in LATE for name in imports(node))
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top and not is_late:
            yield f"line {node.lineno}: an import inside a function, class or condition"
        if isinstance(node, ast.Name | ast.Attribute) and _last_name(node) == "TYPE_CHECKING":
            yield f"line {node.lineno}: TYPE_CHECKING hides an import from the run-time"
    if {"import_module", "__import__"} & set(_calls(module.tree)):
        yield "a module imported by a name that is computed"


def length(module: Module) -> Iterator[str]:
    """A file is about one thing, about 110 lines, never more than 400."""
    count = len(module.source.splitlines())
    if count > MAX_LINES:
        yield f"{count} lines, more than {MAX_LINES}: split it by noun"


def naming(module: Module) -> Iterator[str]:
    """A name says what a thing is."""
    for part in module.name.split("."):
        if part in BANNED_NAMES:
            yield f"{part} names no thing"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper", "Helpers", "Util", "Utils")):
            yield f"class {node.name}: name the thing, not that it helps"


def docstring(module: Module) -> Iterator[str]:
    """Each module says what it is for. An empty file needs no word."""
    if module.tree.body and not ast.get_docstring(module.tree):
        yield "no docstring: say what the module is for and what it refuses"


def tasks(module: Module) -> Iterator[str]:
    """Nothing runs that nobody awaits."""
    if module.name != "kaalia.service":
        yield from (
            f"{call}() is called only in kaalia.service: use Tasks"
            for call in _calls(module.tree)
            if call in TASK_STARTERS
        )


def clocks(module: Module) -> Iterator[str]:
    """The wall clock is read in one place; everyone else is given a Clock, or the time."""
    if module.name == "kaalia.clock":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS:
            owner = _last_name(node.func.value)
            if owner in CLOCKS:
                yield f"line {node.lineno}: {owner}.{node.func.attr}() is called only in kaalia.clock"
    if {"time.time", "time.time_ns"} & set(imports(module.tree)):
        yield "time.time is imported only in kaalia.clock"


def catching(module: Module) -> Iterator[str]:
    """Only the loop guard catches what nobody expected; others may tidy up and raise it again."""
    if module.name == "kaalia.service":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and not _raises_again(node):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or _last_name(kind) in {"Exception", "BaseException"} for kind in kinds):
                yield f"line {node.lineno}: catch what you expect; the rest is for kaalia.service"


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def pruning(module: Module) -> Iterator[str]:
    """kaalia removes only what it can name as its own: no prune verb of Docker is ever used."""
    for node in ast.walk(module.tree):
        called = isinstance(node, ast.Attribute) and node.attr.startswith("prune")
        spelled = isinstance(node, ast.Constant) and isinstance(node.value, str) and "/prune" in node.value
        if called or spelled:
            yield "a prune removes what belongs to others"


Rule = Callable[[Module], Iterable[str]]
RULES: tuple[Rule, ...] = (
    *(direction, doors, purity, import_form, length, naming, docstring, tasks, clocks, catching, pruning),
)


def cycles(modules: dict[str, Module]) -> list[list[str]]:
    """Groups of modules that import each other, however far around."""
    edges = {
        name: {target for imported in imports(module.tree) if (target := _owner(imported, modules))}
        for name, module in modules.items()
    }
    reach = {name: _reachable(name, edges) for name in edges}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in edges if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(edges[name])
    return seen


def _owner(imported: str, modules: dict[str, Module]) -> str | None:
    """The module that holds an imported name."""
    if imported in modules:
        return imported
    parent = imported.rpartition(".")[0]
    return parent if parent in modules else None


def _is_within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _last_name(node.func)):
            yield name


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
