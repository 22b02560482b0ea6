"""Makes C++ of PTX, statement by statement, so that the simulated CUDA runs the very text that GPUs get.

    text = translated([path.read_text() for path in ...])        to be compiled beside cpu.h

It knows what the self-test's kernels use, and refuses what it does not know; cpu.h does what instructions of a whole
warp or block say.
"""

import re
from collections.abc import Callable

TYPES = {one: one for one in ("u16", "s16", "u32", "s32", "u64", "s64")}
TYPES |= {"pred": "bool", "b16": "u16", "b32": "u32", "b64": "u64", "f16": "u16", "f32": "float", "f64": "double"}
_UNSIGNED = {"s16": "u16", "s32": "u32", "s64": "u64"}
_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_SIGNS = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "mul": "*", "div": "/", "rem": "%"}
_PLACES = {"%tid.x": "threadIdx.x", "%ctaid.x": "blockIdx.x", "%ntid.x": "blockDim.x", "%nctaid.x": "gridDim.x"}
_JOINT = re.compile(r"bar\.sync|shfl\.|mma\.|ldmatrix\.")
_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)(?:[^{]*)\{(.*?)\n\}", re.DOTALL)
_STATEMENT = re.compile(r"(?:@(!?)%(p\d+)\s+)?([a-z][\w.]*)\s*(.*?);", re.DOTALL)
_ARGUMENT = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]\s|]+")


def translated(texts: list[str]) -> str:
    """Functions and the table of them. Raises ValueError for a statement that is not known."""
    functions, rows = [], []
    for text in texts:
        for name, parameters, body in _ENTRY.findall(re.sub(r"//.*", "", text)):
            functions.append(_Function(name, parameters, body, text).written())
            is_joint = str(bool(_JOINT.search(body))).lower()
            rows.append(f'    {{"{name}", kernel_{name}, {is_joint}, {parameters.count(".param")}}},')
    return "\n".join([*functions, "const Kernel KERNELS[] = {", *rows, "};\n"])


class _Function:
    """One kernel."""

    def __init__(self, name: str, parameters: str, body: str, text: str) -> None:
        self._name, self._body = name, body
        self._parameters = re.findall(r"\.param \.(\w+)(?: \.ptr[^%\w]*(?:\.\w+ )*(?:\.align \d+)?)? (\w+)", parameters)
        self._places: dict[str, int] = {}
        end = 0
        for alignment, place, size in re.findall(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]", body):
            end = -(-end // int(alignment)) * int(alignment)
            self._places[place] = end
            end += int(size)
        for place in re.findall(r"\.extern \.shared \.align \d+ \.b8 (\w+)\[\]", text):
            self._places[place] = -(-end // 128) * 128

    def written(self) -> str:
        lines = [f"static void kernel_{self._name}(void **given) {{"]
        for number, (kind, parameter) in enumerate(self._parameters):
            lines.append(f"    const {TYPES[kind]} {parameter} = *({TYPES[kind]} *)given[{number}];")
        for kind, name, size in re.findall(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", self._body):
            lines.append(f"    {TYPES[kind]} {', '.join(f'{name}{i}{{}}' for i in range(1, int(size)))};")
        code = re.sub(r"(?m)^\s*\.(?:reg|shared|pragma)\b[^;]*;", "", self._body)
        for label, rest in re.findall(r"\$(\w+):|((?:@!?%p\d+\s+)?[a-z][^;]*;)", code):
            lines.append(f"{label}:;" if label else f"    {self._statement(rest)}")
        return "\n".join([*lines, "}", ""])

    def _statement(self, text: str) -> str:
        found = _STATEMENT.fullmatch(text.strip())
        if not found:
            raise ValueError(f"cannot translate {text!r}: it is no statement")
        negated, predicate, operation, rest = found.groups()
        arguments = _ARGUMENT.findall(rest)
        done = self._done(operation, arguments)
        return f"if ({negated}{predicate}) {done}" if predicate else done

    def _done(self, operation: str, arguments: list[str]) -> str:
        for pattern, write in _WHOLE:
            if found := re.fullmatch(pattern, operation):
                return write(self, found, arguments)
        parts = operation.split(".")
        kind = TYPES.get(parts[-1])
        if kind is None:
            raise ValueError(f"cannot translate {operation}: it is not known")
        plain = TYPES[_UNSIGNED.get(parts[-1], parts[-1])]
        values = [self.value(one, kind) for one in arguments[1:]]
        words = _value_of(parts, kind, plain, values)
        return f"put({self.register(arguments[0])}, {words});"

    def register(self, text: str) -> str:
        return text.removeprefix("%")

    def value(self, text: str, kind: str) -> str:
        """An operand as a C++ value of the type `kind`."""
        if text in _PLACES:
            return f"as<{kind}>({_PLACES[text]})"
        if text.startswith("%"):
            return f"as<{kind}>({text[1:]})"
        if text.startswith("0f"):
            return f"as<float>(0x{text[2:]}u)"
        if text.startswith("0d"):
            return f"as<double>(0x{text[2:]}ull)"
        if text in self._places:
            return f"as<{kind}>({self._places[text]}ull)"
        return f"as<{kind}>({int(text, 0)}ll)"

    def address(self, text: str) -> str:
        """`[%rd1+16]` or `[name]`, in whole."""
        base, _, offset = text.strip("[]").partition("+")
        return f"({self.value(base.strip(), 'u64')} + {int(offset or '0', 0)}ll)"

    def vector(self, text: str) -> list[str]:
        return [one.strip() for one in text.strip("{}").split(",")]


def _value_of(parts: list[str], kind: str, plain: str, values: list[str]) -> str:
    base, is_real = parts[0], parts[-1] in {"f32", "f64"}
    one, two, three = (*values, "", "", "")[:3]
    exact = kind if is_real or base in {"div", "rem"} else plain
    cast = [*(f"({exact})({value})" for value in values), "", "", ""]
    if parts[:2] == ["mul", "wide"]:
        wide = {"u32": "u64", "s32": "s64"}[kind]
        return f"({wide}){one} * ({wide}){two}"
    if parts[:2] == ["mul", "hi"]:
        return f"(u32)((u64){one} * (u64){two} >> 32)"
    if base in _SIGNS:
        sign = _SIGNS[base] * 2 if kind == "bool" else _SIGNS[base]
        return f"({kind})({cast[0]} {sign} {cast[1]})"
    if base == "setp":
        return f"{one} {_COMPARED[parts[1]]} {two}"
    calls = {
        "mad": f"({plain})({cast[0]} * {cast[1]} + {cast[2]})",
        "fma": f"std::fma({one}, {two}, {three})",
        "sqrt": f"std::sqrt({one})",
        "min": f"least({one}, {two})",
        "max": f"most({one}, {two})",
        "shl": f"shifted_left({one}, {two})",
        "shr": f"shifted_right({one}, {two})",
        "not": f"!{one}" if kind == "bool" else f"({kind})~{one}",
        "popc": f"(u32)__builtin_popcountll({one})",
        "brev": f"reversed({one})",
        "bfe": f"field({', '.join(values)})",
        "bfi": f"with_field({', '.join(values)})",
        "shf": f"(u32)(((u64){two} << 32 | {one}) << ({three} & 31) >> 32)",
        "mov": one,
        "ex2": f"exp2f({one})",
        "rsqrt": f"1.0f / sqrtf({one})",
        "sin": f"sinf({one})",
    }
    if base not in calls:
        raise ValueError(f"cannot translate {'.'.join(parts)}: it is not known")
    return calls[base]


_Writer = Callable[[_Function, re.Match[str], list[str]], str]
"""Of a function, the operation as it was matched, and the arguments."""


def _load(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    space, _, kind = found.groups()
    if space == "param":
        return f"put({of.register(arguments[0])}, {arguments[1].strip('[]')});"
    to = of.vector(arguments[0]) if arguments[0].startswith("{") else [arguments[0]]
    kind, address = TYPES[kind], of.address(arguments[1])
    puts = [f"put({of.register(one)}, loaded<{kind}>(at, {number}));" for number, one in enumerate(to)]
    return f"{{ const u8 *at = in_{space}({address}, sizeof({kind}) * {len(to)}); {' '.join(puts)} }}"


def _store(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    space, _, kind = found.groups()
    given = of.vector(arguments[1]) if arguments[1].startswith("{") else [arguments[1]]
    kind, address = TYPES[kind], of.address(arguments[0])
    stores = [f"store<{kind}>(at, {number}, {of.value(one, kind)});" for number, one in enumerate(given)]
    return f"{{ u8 *at = in_{space}({address}, sizeof({kind}) * {len(given)}); {' '.join(stores)} }}"


def _atom(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    kind = TYPES[found.group(2)]
    value = of.value(arguments[2], kind)
    how = {"add": "old + given", "min": "least(old, given)", "max": "most(old, given)", "or": "old | given"}[
        found.group(1)
    ]
    return (
        f"{{ u8 *at = in_global({of.address(arguments[1])}, sizeof({kind})); {kind} old = loaded<{kind}>(at, 0), "
        f"given = {value}; store<{kind}>(at, 0, {how}); put({of.register(arguments[0])}, old); }}"
    )


def _convert(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    to, source = found.groups()
    value = of.value(arguments[1], TYPES[source])
    if to == "f16":
        value = f"fp16_of({value})"
    elif source in {"f32", "f64"} and to not in {"f32", "f64"}:
        value = f"truncated({value})"
    else:
        value = f"({TYPES[to]}){value}"
    return f"put({of.register(arguments[0])}, {value});"


def _pack(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    to, given = arguments
    if to.startswith("{"):
        low, high = of.vector(to)
        puts = f"put({of.register(low)}, (u32)whole); put({of.register(high)}, (u32)(whole >> 32));"
        return f"{{ u64 whole = {of.value(given, 'u64')}; {puts} }}"
    if given.startswith("{"):
        low, high = (of.value(one, "u32") for one in of.vector(given))
        return f"put({of.register(to)}, (u64){low} | (u64){high} << 32);"
    return f"put({of.register(to)}, {of.value(given, TYPES[found.group(1)])});"


def _select(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    first, second = (of.value(one, TYPES[found.group(1)]) for one in arguments[1:3])
    return f"put({of.register(arguments[0])}, {of.register(arguments[3])} ? {first} : {second});"


def _listed(of: _Function, kind: str, text: str) -> str:
    return ", ".join(of.value(one, kind) for one in of.vector(text))


def _outs(of: _Function, text: str) -> str:
    return " ".join(f"put({of.register(one)}, out[{number}]);" for number, one in enumerate(of.vector(text)))


def _call(name: str, *kinds: str, out: str) -> _Writer:
    """A function of cpu.h that makes a vector, the first argument, of vectors, addresses and numbers."""

    def write(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
        kind, size = out.split()
        declared, passed = [f"{kind} out[{size}];"], []
        for number, (given, text) in enumerate(zip(kinds, arguments[1:], strict=True)):
            if given == "address":
                passed.append(of.address(text))
            elif given == "number":
                passed.append(of.value(text, "u32"))
            else:
                declared.append(f"{given} in{number}[] = {{{_listed(of, given, text)}}};")
                passed.append(f"in{number}")
        return f"{{ {' '.join(declared)} {name}({', '.join(['out', *passed])}); {_outs(of, arguments[0])} }}"

    return write


def _store_sums(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    sums = _listed(of, "float", arguments[1])
    return (
        f"{{ float in[] = {{{sums}}}; store_sums({of.address(arguments[0])}, in, {of.value(arguments[2], 'u32')}); }}"
    )


def _shuffle(of: _Function, found: re.Match[str], arguments: list[str]) -> str:
    return (
        f"put({of.register(arguments[0])}, shuffled({of.value(arguments[2], 'u32')}, {of.value(arguments[3], 'u32')}));"
    )


_WHOLE: tuple[tuple[str, _Writer], ...] = (
    (r"ld\.(param|global|shared)(\.v\d)?\.(\w+)", _load),
    (r"st\.(global|shared)(\.v\d)?\.(\w+)", _store),
    (r"atom\.global\.(add|min|max|or)\.(\w+)", _atom),
    (r"cvt\.(?:rn\.|rzi\.)?(\w+)\.(\w+)", _convert),
    (r"cvta\.to\.global\.(u64)", _pack),
    (r"mov\.(b64|u64|b32)", _pack),
    (r"selp\.(\w+)", _select),
    (r"bra(?:\.uni)?", lambda of, found, a: f"goto {a[0].removeprefix('$')};"),
    (r"ret", lambda of, found, a: "return;"),
    (r"bar\.sync", lambda of, found, a: "cpu::block_barrier();"),
    (r"shfl\.sync\.bfly\.b32", _shuffle),
    (r"cp\.async\.commit_group", lambda of, found, a: "cpu::copy_commit();"),
    (r"cp\.async\.wait_group", lambda of, found, a: f"cpu::copy_wait({a[0]});"),
    (r"cp\.async\.cg\.shared\.global",
     lambda of, found, a: f"cpu::copy_later(in_shared({of.address(a[0])}, 16), in_global({of.address(a[1])}, 16));"),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x4\.shared\.b16", _call("load_matrices", "address", out="u32 4")),
    (r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32",
     _call("multiply_bf16", "u32", "u32", "float", out="float 4")),
    (r"wmma\.load\.(?:a\.sync\.aligned\.row|b\.sync\.aligned\.col)\.m16n16k16\.shared\.f16",
     _call("load_line", "address", "number", out="u32 8")),
    (r"wmma\.mma\.sync\.aligned\.row\.col\.m16n16k16\.f32\.f32",
     _call("multiply_fp16", "u32", "u32", "float", out="float 8")),
    (r"wmma\.store\.d\.sync\.aligned\.row\.m16n16k16\.global\.f32", _store_sums),
)  # fmt: skip
