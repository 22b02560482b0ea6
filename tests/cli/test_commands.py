import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from kaalia.contracts import traffic
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.model.inventory import GpuParts, Inventory
from kaalia.model.machine import GpuDriver, Missing
from kaalia.model.measurement import Measurement
from kaalia.model.traffic import Bytes, Counter
from kaalia.model.workload import WorkloadState
from kaalia.store import conditions, contracts, inventory, machine, measurements, workloads
from kaalia.store import traffic as tallies
from tests.cli.conftest import Daemon, Run
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import START

COMMANDS = [["status"], ["report"], ["contracts"], ["contracts", "51"], ["ledger"], ["ledger", "ports"], ["ports"]]


def fits(text: str) -> bool:
    return all(len(line) <= 100 for line in text.splitlines())


def test_status_tells_a_well_machine_in_one_screen(run: Run, rented: Daemon) -> None:
    result = run("status", "--socket", str(rented.socket))

    assert result.code == 0
    assert "running for 5 h" in result.out
    assert "machine 12 of https://market.example, revision 5 of 12 s ago" in result.out
    assert "8 x NVIDIA GeForce RTX 4090 (simulated), 24 GiB, 1 in use" in result.out
    assert "$ 0.40 per GPU and hour" in result.out
    assert "1 running, 1 waiting" in result.out
    assert len(result.out.splitlines()) <= 24


def test_status_of_an_unwell_machine_ends_with_1_and_remedies(run: Run, daemon: Daemon) -> None:
    result = run("status", "--socket", str(daemon.socket))

    assert result.code == 1
    assert "[not_enrolled]" in result.out
    assert "remedy: run: kaalia enroll URL --token-file FILE" in result.out


def test_a_warning_is_shown_and_does_not_make_the_machine_unwell(run: Run, rented: Daemon) -> None:
    warning = Condition(Problem("ports_odd", "cannot be sure", "look"), Severity.WARN, "it is sure")
    rented.write(lambda tx: conditions.replace(tx, "ports", [warning], START))

    result = run("status", "--socket", str(rented.socket))

    assert result.code == 0
    assert "warning: cannot be sure [ports_odd]" in result.out
    assert "remedy: look" in result.out


def test_report_marks_simulated_gpus_and_says_what_was_not_read(run: Run, rented: Daemon) -> None:
    gap = Missing("system.board", "the kernel exposes no DMI table")
    rented.write(lambda tx: machine.put_report(tx, build_report(gpus=8, missing=(gap,))))

    result = run("report", "--socket", str(rented.socket))

    assert result.code == 0
    assert result.out.count("NVIDIA GeForce RTX 4090 (simulated)") == 8
    assert "256.0 GiB, 240.0 GiB free" in result.out
    assert "system.board" in result.out
    assert "the kernel exposes no DMI table" in result.out


def test_report_for_programs_is_as_its_schema_says(run: Run, rented: Daemon) -> None:
    listed = Inventory(START, "boot-1", gpus=(GpuParts(build_report().gpus[0].uuid, 0, vbios_version="95.02"),))
    disk = Measurement("disk_read_mbps", "", 3100.5, "MB/s", "", START, 4.0, 0.02)
    untold = Measurement("cpu_sustained_ghz", "", None, "GHz", "", START, 4.0, reason="the kernel does not tell it")
    rented.write(lambda tx: inventory.put(tx, listed))
    rented.write(lambda tx: measurements.put(tx, [disk, untold]))

    schema = json.loads(run("report", "--schema").out)
    told = json.loads(run("report", "--json", "--socket", str(rented.socket)).out)

    Draft202012Validator(schema).validate(told)
    assert told["gpus"][0]["vbios_version"]["value"] == "95.02"
    assert told["benchmarks"]["disk_read_mbps"] | {"method": ""} == {
        "value": 3100.5,
        "unit": "MB/s",
        "method": "",
        "at": START.isoformat(),
        "duration_s": 4.0,
        "spread": 0.02,
    }
    assert told["benchmarks"]["cpu_sustained_ghz"]["reason"] == "the kernel does not tell it"
    assert "3,100.5 MB/s ± 2 %" in run("report", "--socket", str(rented.socket)).out


def test_a_measurement_is_ordered_and_refused_for_the_cpu_while_tenants_run(run: Run, rented: Daemon) -> None:
    refused = run("report", "--measure", "cpu", "--socket", str(rented.socket))

    assert refused.code == 1
    assert "[measure_tenants_run]" in refused.err
    assert rented.read(measurements.next_order) is None


def test_real_gpus_are_not_marked(run: Run, daemon: Daemon) -> None:
    report = build_report(driver=GpuDriver("550.54.14", "12.4"))
    daemon.write(lambda tx: machine.put_report(tx, report))

    assert "simulated" not in run("report", "--socket", str(daemon.socket)).out


def test_contracts_are_a_table(run: Run, rented: Daemon) -> None:
    lines = run("contracts", "--socket", str(rented.socket)).out.splitlines()

    assert lines[0].split() == ["ID", "Kind", "State", "Image", "GPUs", "Ports", "Disk", "Net", "Mbit/s", "$/h", "Ends"]
    assert lines[1].split()[:3] == ["51", "on-demand", "running"]
    assert lines[2].split()[:3] == ["52", "on-demand", "waiting"]


def test_rates_and_sums_of_traffic_are_shown(run: Run, rented: Daemon) -> None:
    begun = traffic.begun(Counter(51, "10.214.0.0/28", "a1"), 1, START - timedelta(seconds=60))
    tally = traffic.counted(begun, Bytes(92_250_000, 3_000_000_000), START)
    rented.write(lambda tx: tallies.put(tx, tally))

    assert "12.3/400.0" in run("contracts", "--socket", str(rented.socket)).out.splitlines()[1]
    whole = run("contracts", "51", "--socket", str(rented.socket)).out
    assert "0.092 GB up, 3.000 GB down, now 12.3/400.0 Mbit/s" in whole
    told = json.loads(run("contracts", "51", "--socket", str(rented.socket), "--json").out)["traffic"]
    assert told["total"] == {"up": 92_250_000, "down": 3_000_000_000}
    assert told["rate"] == {"up": 1_537_500, "down": 50_000_000}


def test_a_contract_that_waits_says_for_what(run: Run, rented: Daemon) -> None:
    status = build_status(52, state=WorkloadState.STOPPED, status_msg="outbid: a higher bid has the GPUs")
    rented.write(lambda tx: workloads.put(tx, status))

    out = run("contracts", "--socket", str(rented.socket)).out

    assert "contract 52: outbid: a higher bid has the GPUs" in out
    assert "contract 51:" not in out


def test_one_contract_is_told_in_full_but_for_its_secrets(run: Run, rented: Daemon) -> None:
    result = run("contracts", "51", "--socket", str(rented.socket))

    assert "40011->8080/tcp" in result.out
    assert "CONTAINER_API_KEY, MODE" in result.out
    assert "hush" not in result.out


def test_the_problem_of_a_contract_is_shown_with_its_remedy(run: Run, rented: Daemon) -> None:
    problem = Problem("image_not_found", "cannot pull a/b: no such image", "check the name", "404")
    rented.write(lambda tx: workloads.put(tx, build_status(51, state=WorkloadState.FAILED, problem=problem)))

    result = run("contracts", "--socket", str(rented.socket))

    assert "cannot pull a/b: no such image [image_not_found]" in result.out
    assert "remedy: check the name" in result.out


def test_no_contracts_is_a_sentence(run: Run, daemon: Daemon) -> None:
    assert run("contracts", "--socket", str(daemon.socket)).out == "No contracts.\n"


def test_an_unknown_contract_is_refused(run: Run, rented: Daemon) -> None:
    result = run("contracts", "99", "--socket", str(rented.socket))

    assert result.code == 1
    assert result.out == ""
    assert "cannot show contract 99" in result.err
    assert "remedy: see all with: kaalia contracts" in result.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_speaks_json(run: Run, rented: Daemon, command: list[str]) -> None:
    result = run(*command, "--json", "--socket", str(rented.socket))

    assert result.code == 0
    assert json.loads(result.out)
    assert "hush" not in result.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_fits_100_columns_and_is_plain_when_piped(run: Run, rented: Daemon, command: list[str]) -> None:
    spec = replace(build_contract().spec, image="registry.example/" + "deep/" * 30 + "image@sha256:" + "0" * 64)
    long = build_contract(53, spec=spec, end_at=START + timedelta(days=900))
    rented.write(lambda tx: contracts.upsert(tx, long, START))

    result = run(*command, "--socket", str(rented.socket))

    assert fits(result.out)
    assert "\x1b" not in result.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_daemon_every_command_says_so(run: Run, tmp_path: Path, command: list[str]) -> None:
    result = run(*command, "--socket", str(tmp_path / "none"))

    assert result.code == 2
    assert result.out == ""
    assert "[daemon_not_running]" in result.err
    assert "systemctl start kaalia" in result.err
    assert "Traceback" not in result.err


def test_the_socket_of_the_configuration_is_used(run: Run, rented: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "kaalia.yaml"
    config.write_text(f"socket: {rented.socket}\n")

    assert run("status", "--config", str(config)).code == 0


def test_a_wrong_configuration_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "kaalia.yaml"
    config.write_text("sokcet: /s\n")

    result = run("status", "--config", str(config))

    assert result.code == 2
    assert "unknown key sokcet" in result.err
    assert "remedy: write socket" in result.err
