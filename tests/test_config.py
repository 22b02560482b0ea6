import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kaalia.config import Config, load
from kaalia.contracts.policy import OPEN, Policy
from kaalia.daemon import policy
from kaalia.errors import ConfigError
from kaalia.runtime.sandbox.rules import Reach


def write(folder: Path, text: str) -> Path:
    path = folder / "kaalia.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environment)
    return caught.value


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), {}) == Config()
    assert Config().state_dir == Path("/var/lib/kaalia")


def test_the_file_is_read(tmp_path: Path) -> None:
    config = load(write(tmp_path, "ports:\n  range: 41000-41009\nintervals: {report_s: 5}\n"), {})

    assert (config.ports.first, config.ports.last) == (41000, 41009)
    assert config.intervals.report_s == 5
    assert config.intervals.heartbeat_s == 60


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "ports:\n  range: 41000-41009\n  public_ip: 192.0.2.1\n")

    config = load(path, {"KAALIA_PORTS__RANGE": "42000-42001", "KAALIA_STATE_DIR": "/srv/kaalia", "PATH": "/bin"})

    assert config.ports.range == "42000-42001"
    assert config.ports.public_ip == "192.0.2.1"
    assert config.database_path == Path("/srv/kaalia/state.db")


def test_an_unknown_key_is_named_with_its_file_and_the_nearest_key(tmp_path: Path) -> None:
    error = refused(tmp_path, "ports:\n  rnage: 41000-41009\n")

    assert error.code == "config_unknown_key"
    assert "ports.rnage" in str(error)
    assert str(tmp_path / "kaalia.yaml") in str(error)
    assert error.problem.remedy == "write ports.range"


def test_a_key_in_the_wrong_section_is_pointed_to_the_right_one(tmp_path: Path) -> None:
    assert refused(tmp_path, "public_ip: auto\n").problem.remedy == "write ports.public_ip"


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, "", KAALIA_PORTS__RNAGE="1-2")

    assert "the variable KAALIA_PORTS__RNAGE" in str(error)
    assert error.problem.remedy == "write ports.range"


def test_a_misspelt_variable_without_a_section_is_named_and_foreign_ones_are_left_alone(tmp_path: Path) -> None:
    assert refused(tmp_path, "", KAALIA_STATEDIR="/srv").problem.remedy == "write state_dir"
    assert load(write(tmp_path, ""), {"KAALIA_SOMETHING_ELSE": "1"}) == Config()


def test_all_complaints_come_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, "log: {level: loud}\nintervals: {heartbeat_s: 900}\n")

    assert "log.level" in str(error)
    assert "intervals.heartbeat_s" in str(error)
    assert "900" in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ports.range", "40000"),
        ("ports.range", "40799-40000"),
        ("ports.range", "80-90"),
        ("ports.range", "40000-70000"),
        ("ports.range", "40000-x"),
        ("probe.url", "prober.example:8090"),
        ("probe.url", "https://user@prober.example"),
        ("probe.every_hours", "0"),
        ("ports.public_ip", "example.com"),
        ("docker.host", "tcp://10.0.0.1:2375"),
        ("docker.subnet_pool", "8.8.0.0/16"),
        ("docker.subnet_pool", "10.0.0.0/30"),
        ("docker.subnet_pool", "10.0.0.1/16"),
        ("state_dir", "var/lib/kaalia"),
        ("state_dir", "/var/../etc"),
        ("socket", "/" + "s" * 107),
        ("metrics.listen", "9464"),
        ("metrics.listen", "localhost:9464"),
        ("metrics.listen", "127.0.0.1:0"),
        ("metrics.listen", "0.0.0.0:9464"),
        ("metrics.listen", "[::]:9464"),
        ("metrics.listen", "192.168.1.7:9464"),
        ("nvml.deadline_s", "0"),
        ("log.format", "xml"),
    ],
)
def test_a_bad_value_is_refused_with_key_value_and_remedy(tmp_path: Path, key: str, value: str) -> None:
    document: object = value
    for part in reversed(key.split(".")):
        document = {part: document}

    error = refused(tmp_path, yaml.safe_dump(document))

    assert error.code == "config_invalid"
    assert key in error.problem.message
    assert value in error.problem.message
    assert error.problem.remedy.startswith(f"{key} must be")


def test_metrics_leave_the_machine_by_an_explicit_word_only(tmp_path: Path) -> None:
    listen = "metrics: {listen: '192.168.1.7:9464', allow_remote: true}"

    assert load(write(tmp_path, listen), {}).metrics.place == ("192.168.1.7", 9464)
    assert load(write(tmp_path, "metrics: {listen: '[::1]:9464'}"), {}).metrics.place == ("::1", 9464)
    assert Config().metrics.place is None


def test_metrics_take_no_port_of_a_renter(tmp_path: Path) -> None:
    error = refused(tmp_path, "ports: {range: 41000-41009}\nmetrics: {listen: '127.0.0.1:41009'}\n")

    assert error.code == "config_invalid"
    assert error.problem.remedy == "metrics must listen outside of ports.range, 41000-41009, which is renters'"


def test_a_value_in_place_of_a_section_is_refused(tmp_path: Path) -> None:
    assert "ports = '40000-40799', not a section" in str(refused(tmp_path, "ports: 40000-40799\n"))


@pytest.mark.parametrize("text", ["[1, 2]", "state_dir", "a: [", "ports: {range: 1-2}\nports: {}\n"])
def test_what_is_not_a_mapping_of_keys_is_refused(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text).code == "config_not_yaml"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.yaml", {})
    assert caught.value.code == "config_unreadable"


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().state_dir = Path("/elsewhere")


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_any_document_gives_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    path = tmp_path_factory.mktemp("any") / "kaalia.yaml"
    path.write_text(yaml.safe_dump(document))

    with contextlib.suppress(ConfigError):
        assert load(path, {}) == Config()


def test_the_documentation_lists_every_key_with_its_default() -> None:
    text = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", text, re.MULTILINE))
    defaults = dict(_keys(Config(), ""))

    assert rows == {key: _spelt(value) for key, value in defaults.items()}


def _keys(section: BaseModel, prefix: str) -> Iterator[tuple[str, object]]:
    """Of all sections in it, however deep."""
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _spelt(value: object) -> str:
    """As one writes it in YAML."""
    match value:
        case None | bool():
            return "null" if value is None else str(value).lower()
        case tuple():
            return str(list(value))
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_policy_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = """
policy:
  min_price_gpu_per_hour: 0.25
  latest_end: 2027-06-30
  max_duration_days: 1.5
  banned_images: ["*/xmrig*", ghcr.io/someone/*]
  admit_default_jobs: no
"""
    found = policy.read(load(write(tmp_path, text), {}).policy)

    assert found == Policy(
        min_price_gpu_per_hour=Decimal("0.25"),
        latest_end_at=datetime(2027, 7, 1, tzinfo=UTC),
        max_duration=timedelta(hours=36),
        banned_images=("*/xmrig*", "ghcr.io/someone/*"),
        admit_default_jobs=False,
    )
    assert policy.read(Config().policy) == OPEN


def test_variables_hold_a_policy_too(tmp_path: Path) -> None:
    environment = {
        "KAALIA_POLICY__MIN_PRICE_GPU_PER_HOUR": "0.3",
        "KAALIA_POLICY__BANNED_IMAGES": "*/xmrig*, ubuntu",
        "KAALIA_POLICY__LATEST_END": "2027-06-30",
        "KAALIA_POLICY__ADMIT_INTERRUPTIBLE": "false",
    }
    found = load(write(tmp_path, ""), environment).policy

    assert (found.min_price_gpu_per_hour, found.latest_end) == (Decimal("0.3"), date(2027, 6, 30))
    assert (found.banned_images, found.admit_interruptible) == (("*/xmrig*", "ubuntu"), False)
    assert load(write(tmp_path, ""), {"KAALIA_POLICY__BANNED_IMAGES": ""}).policy.banned_images == ()


@pytest.mark.parametrize(
    "line",
    [
        "min_price_gpu_per_hour: -1",
        "min_price_gpu_per_hour: .nan",
        "min_price_gpu_per_hour: .inf",
        "latest_end: 2027",
        "latest_end: soon",
        "latest_end: 9999-12-31",
        "latest_end: 2027-06-30 12:00:00",
        "max_duration_days: 0",
        "max_duration_days: .inf",
        "banned_images: [https://evil.example/x]",
        "banned_images: ['']",
        "banned_images: [a b]",
        "banned_images: [1]",
        "admit_default_jobs: perhaps",
    ],
)
def test_a_policy_that_says_nothing_is_refused(tmp_path: Path, line: str) -> None:
    """One that were read as something else would guard nothing."""
    error = refused(tmp_path, f"policy:\n  {line}\n")

    assert error.code == "config_invalid"
    assert f"policy.{line.partition(':')[0]}" in str(error)
    assert error.problem.remedy


def test_a_misspelt_rule_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, "policy: {ban_images: [x]}\n").problem.remedy == "write policy.banned_images"


def test_what_tenants_reach_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = """
network:
  allow: [192.168.1.20, 10.8.0.0/24, 'fd00:1::/64', 'fd00:2::7']
  block_smtp: false
  connections_per_s: 50
  bandwidth_mbit: 2.5
"""

    found = policy.reach(load(write(tmp_path, text), {}).network)

    assert found == Reach(("192.168.1.20/32", "10.8.0.0/24", "fd00:1::/64", "fd00:2::7/128"), False, 50, 2_500_000)
    assert policy.reach(Config().network) == Reach()
    assert policy.reach(Config().network, 65_536).connections == 4096
    unlimited = load(write(tmp_path, "network: {connections_per_s: unlimited, connections: unlimited}\n"), {}).network
    assert policy.reach(unlimited).connections_per_s is None
    assert policy.reach(unlimited).connections is None
    chosen = load(write(tmp_path, "network: {connections: 50000}\n"), {}).network
    assert policy.reach(chosen, 65_536).connections == 50_000
    by_variable = load(write(tmp_path, ""), {"KAALIA_NETWORK__ALLOW": "10.8.0.0/24, 192.168.1.20"}).network
    assert by_variable.allow == ("10.8.0.0/24", "192.168.1.20/32")


@pytest.mark.parametrize(
    "line",
    [
        "allow: [10.8.0.1/24]",
        "allow: [lan]",
        "allow: ['fd00::1/8']",
        "allow: ['fe80::1%eth0']",
        "ipv6: perhaps",
        "allow: [10.8.0.0/33]",
        "connections_per_s: 0",
        "connections_per_s: 10001",
        "connections_per_s: many",
        "connections: 999",
        "connections: some",
        "bandwidth_mbit: 0",
        "bandwidth_mbit: .inf",
        "bandwidth_mbit: 10001",
        "block_smtp: perhaps",
    ],
)
def test_a_network_that_cannot_be_is_refused(tmp_path: Path, line: str) -> None:
    error = refused(tmp_path, f"network:\n  {line}\n")

    assert error.code == "config_invalid"
    assert f"network.{line.partition(':')[0]}" in str(error)
