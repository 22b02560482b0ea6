import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.dockerflags import IDENTITY_PORT_MIN, MAX_PORTS, CreateOptions, merge, parse, to_pairs
from kaalia.errors import ContractError
from kaalia.model.workload import PortRequest, Protocol, VolumeMount

TCP, UDP = Protocol.TCP, Protocol.UDP

keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,12}", fullmatch=True)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
ports = st.builds(PortRequest, st.one_of(st.integers(1, 65535), st.integers(70000, 99999)), st.sampled_from(Protocol))
hostnames = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]{1,8}){0,2}", fullmatch=True)
mounts = st.builds(VolumeMount, st.integers(1, 10**6), st.from_regex(r"(/[a-c]{1,3}[0-9]){1,3}", fullmatch=True))
options = st.builds(
    CreateOptions,
    env=st.dictionaries(keys, values, max_size=6).map(lambda env: tuple(env.items())),
    ports=st.lists(ports, unique=True, max_size=20).map(tuple),
    hostname=st.none() | hostnames,
    volumes=st.lists(mounts, unique_by=lambda mount: mount.path, max_size=3).map(tuple),
    networks=st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True), unique=True, max_size=3).map(tuple),
)


def refusal(env: object) -> ContractError:
    with pytest.raises(ContractError) as caught:
        parse(env)  # type: ignore[arg-type]  # outside data
    assert caught.value.problem.message.startswith("cannot ")
    assert caught.value.problem.remedy
    return caught.value


def test_flag_string_of_the_public_docs() -> None:
    parsed = parse("-e MY_VAR=hello -p 8080:8080 -p 8081:8081/udp -h billybob -v V.901:/data -n net1")

    assert parsed == CreateOptions(
        env=(("MY_VAR", "hello"),),
        ports=(PortRequest(8080), PortRequest(8081, UDP)),
        hostname="billybob",
        volumes=(VolumeMount(901, "/data"),),
        networks=("net1",),
    )


def test_the_clients_dict_means_the_same_as_its_flag_string() -> None:
    recorded = {"A": "B", "-p 8081:8081/udp": "1", "-h": "billybob", "-v V.901:/data": "1", "-n net1": "1"}

    assert parse(recorded) == parse("-e A=B -p 8081:8081/udp -h billybob -v V.901:/data -n net1")


def test_quotes_are_the_shells() -> None:
    text = (
        """-p 3000:3000 -e MODEL_ARGS='--model-id TheBloke/Llama-2-7B-chat-GPTQ --quantize gptq' -e "C=x y" -e E="" """
    )

    env = dict(parse(text).env)

    assert env == {"MODEL_ARGS": "--model-id TheBloke/Llama-2-7B-chat-GPTQ --quantize gptq", "C": "x y", "E": ""}


@pytest.mark.parametrize("entry", [{'"C': "x y"}, {"'C": "x y"}, {'"C': 'x y"'}, {'"C"': "x y"}, {" C ": "x y"}])
def test_stray_quotes_of_the_clients_splitting_are_dropped(entry: dict[str, str]) -> None:
    assert parse(entry).env == (("C", "x y"),)


def test_quotes_inside_a_dict_value_are_the_renters() -> None:
    assert parse({"JSON": '{"a": "b"}', "Q": '"'}).env == (("JSON", '{"a": "b"}'), ("Q", '"'))


@pytest.mark.parametrize(
    ("word", "port"),
    [
        ("8080", PortRequest(8080)),
        ("8080:8080", PortRequest(8080)),
        ("18080:80", PortRequest(80)),
        ("18080:80/tcp", PortRequest(80)),
        ("18080:80/UDP", PortRequest(80, UDP)),
        ("53/udp", PortRequest(53, UDP)),
        ("0:80", PortRequest(80)),
        ("70000:70000", PortRequest(70000)),
        ("72299:72299/udp", PortRequest(72299, UDP)),
        ("73478", PortRequest(73478)),
    ],
)
def test_port_forms(word: str, port: PortRequest) -> None:
    assert parse(f"-p {word}").ports == (port,)
    assert parse(f"-p{word}").ports == (port,)
    assert parse(f"--publish={word}").ports == (port,)
    assert parse(f"--publish {word}").ports == (port,)
    assert parse({f"-p {word}": "1"}).ports == (port,)
    assert parse({"-p": word}).ports == (port,)


@pytest.mark.parametrize(
    "word",
    [
        *("0", "65536", "69999", "100000", "65536:80", "70000:80", "80:70000", "70000:70001", "-1", "8080:", ":80"),
        *("127.0.0.1:80:80", "8000-8010:8000-8010", "80/sctp", "80/tcp/udp", "http", "٨٠", "8080:80x", ""),
    ],
)
def test_bad_ports_are_refused(word: str) -> None:
    assert refusal([["-p", word]]).code == "port_invalid"


def test_a_port_counts_once_per_protocol() -> None:
    assert parse("-p 80:80 -p 8080:80 -p 80/udp").ports == (PortRequest(80, TCP), PortRequest(80, UDP))


def test_sixty_four_ports_and_no_more() -> None:
    most = " ".join(f"-p {port}" for port in range(1000, 1000 + MAX_PORTS))

    assert len(parse(f"{most} -p 1000").ports) == MAX_PORTS
    assert refusal(f"{most} -p 1000/udp").code == "too_many_ports"


@pytest.mark.parametrize("form", ["-e A=B", "-eA=B", "--env A=B", "--env=A=B", "-e 'A=B'", "\\\n  -e A=B \\\r\n"])
def test_forms_of_an_option(form: str) -> None:
    assert parse(form).env == (("A", "B"),)


def test_a_value_keeps_its_equals_signs() -> None:
    assert parse("-e URL=http://x/?a=b&c=d").env == (("URL", "http://x/?a=b&c=d"),)


def test_numbers_and_flags_of_a_dict_become_text() -> None:
    assert parse({"N": 3, "F": 0.5, "T": True}).env == (("N", "3"), ("F", "0.5"), ("T", "true"))


@pytest.mark.parametrize(
    "word", ["--privileged", "--gpus=all", "--shm-size", "--cap-add", "--rm", "-it", "-d", "--ipc=host", "-", "--"]
)
def test_other_options_are_refused_by_name(word: str) -> None:
    error = refusal(f"-e A=B {word} x")

    assert error.code == "env_option_refused"
    assert repr(word.partition("=")[0]) in error.problem.message
    assert refusal({f"{word} x": "1"}).code == "env_option_refused"


def test_a_bare_variable_is_told_where_the_e_goes() -> None:
    error = refusal("VAR1=secret1 VAR2=secret2")

    assert error.code == "env_invalid"
    assert "put -e before it" in error.problem.remedy
    assert "VAR1" in error.problem.message
    assert "secret" not in str(error)


@pytest.mark.parametrize("env", ["-e KEY", "-e", "-e =x", "-e ''", "-e -p=1", "-e 'a b=c'", {"": "x"}, {"A": None}])
def test_variables_without_name_or_value_are_refused(env: object) -> None:
    assert refusal(env).code == "env_invalid"


@pytest.mark.parametrize("env", ["-e A='x", "-e A=it's", "word", [["A"]], ["AB"], {"A": ["x"]}, [[1, "x"]], "-n net!"])
def test_other_bad_options_are_refused(env: object) -> None:
    assert refusal(env).code == "env_invalid"


@pytest.mark.parametrize("name", ["-node", "node-", "a..b", "node_1", "", "a b", "é", "x" * 64, "node.", "$(id)"])
def test_bad_hostnames_are_refused(name: str) -> None:
    assert refusal([["-h", name]]).code == "hostname_invalid"


@pytest.mark.parametrize(
    "mount",
    [
        *("/host:/data", "V.1:data", "V.1:/", "V.1://", "V.1:", "V.x:/data", "901:/data", "V.1:/a/../b", "V.1:/a//b"),
        *("V.1:/data:ro", "V.1:/proc/x", "V.1:/sys", "V.1:/dev/shm", "V.1:/a\nb", f"V.1:/{'x' * 300}", "V.-1:/x"),
    ],
)
def test_bad_volumes_are_refused(mount: str) -> None:
    assert refusal([["-v", mount]]).code == "volume_invalid"


def test_a_trailing_slash_of_a_volume_does_not_count() -> None:
    assert parse("-v V.1:/data/ -v V.2:/data").volumes == (VolumeMount(2, "/data"),)


def test_nothing_is_no_options() -> None:
    assert parse(None) == parse("") == parse({}) == parse([]) == parse(" \n ") == CreateOptions()


def test_variables_stay_out_of_repr() -> None:
    assert "secret" not in repr(parse("-e TOKEN=secret -p 80"))


def test_merge_of_the_public_docs() -> None:
    template = parse("-e MODEL_ID=deepseek-ai/DeepSeek-R1-Distill-Llama-8B -e MAX_TOKENS=4096")
    request = parse("-e MODEL_ID=mistralai/Mistral-7B-v0.1 -e HF_TOKEN=hf_xxx")

    assert dict(merge(template, request).env) == {
        "MODEL_ID": "mistralai/Mistral-7B-v0.1",
        "MAX_TOKENS": "4096",
        "HF_TOKEN": "hf_xxx",
    }


def test_merge_counts_the_ports_of_both() -> None:
    base = CreateOptions(ports=tuple(PortRequest(port) for port in range(1, 41)))

    assert len(merge(base, base).ports) == 40
    with pytest.raises(ContractError, match="64 at most"):
        merge(base, CreateOptions(ports=tuple(PortRequest(port) for port in range(41, 81))))


@given(options)
def test_pairs_and_the_clients_dict_read_back(asked: CreateOptions) -> None:
    pairs = to_pairs(asked)

    assert parse(pairs) == asked
    assert parse({pair[0]: pair[1] for pair in pairs}) == asked


@given(options)
def test_a_quoted_flag_string_reads_back(asked: CreateOptions) -> None:
    words: list[str] = []
    for key, value in to_pairs(asked):
        words += (
            key.split()
            if key.startswith("-") and key != "-h"
            else [key, value]
            if key == "-h"
            else ["-e", f"{key}={value}"]
        )

    # A backslash before a line end is a continuation for a shell too, but only outside single quotes.
    if not any("\\\n" in word or "\\\r\n" in word for word in words):
        assert parse(shlex.join(words)) == asked


@given(options, options)
def test_merge_is_by_key_and_over_wins(base: CreateOptions, over: CreateOptions) -> None:
    merged = merge(base, over)

    assert dict(merged.env) == {**dict(base.env), **dict(over.env)}
    assert set(merged.ports) == {*base.ports, *over.ports}
    assert set(merged.networks) == {*base.networks, *over.networks}
    assert merged.hostname == (over.hostname or base.hostname)
    assert {m.path: m for m in merged.volumes} == {m.path: m for m in (*base.volumes, *over.volumes)}
    assert merge(merged, over) == merged
    assert merge(base, CreateOptions()) == base


@given(st.text(max_size=60) | st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.integers(), max_size=4))
def test_any_input_gives_options_or_a_refusal(env: str | dict[str, object]) -> None:
    try:
        parsed = parse(env)
    except ContractError as error:
        assert error.problem.remedy  # noqa: PT017 a refusal is one of two right answers
    else:
        assert parse(to_pairs(parsed)) == parsed
        assert all(port.container_port <= 65535 or port.container_port >= IDENTITY_PORT_MIN for port in parsed.ports)
