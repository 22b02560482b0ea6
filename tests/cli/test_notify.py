"""`kaalia notify`: a person sees by which channels he is told, and tries them."""

import json
from pathlib import Path

import pytest

from kaalia.cli import output
from kaalia.cli.commands.notify import app
from tests.notify.test_secret import ED_SECRET, HMAC_SECRET
from tests.support.owner import receiver, secret_file


def run(*args: str) -> int:
    try:
        return output.run(app, args, "kaalia notify")
    except SystemExit as end:
        return int(end.code or 0)


def written(folder: Path, text: str) -> Path:
    path = folder / "kaalia.yaml"
    path.write_text(f"socket: {folder / 's'}\n{text}")
    return path


def test_a_test_says_what_happened_by_each_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret_file(tmp_path / "secret", HMAC_SECRET)
    with receiver() as well, receiver() as ill:
        ill.answers = [500]
        hooks = "".join(
            f"    {name}: {{url: '{to.url}', secret_file: {tmp_path / 'secret'}}}\n"
            for name, to in (("well", well), ("ill", ill))
        )
        config = written(tmp_path, f"notify:\n  webhooks:\n{hooks}")
        code = run("--test", "--config", str(config))
        shown = capsys.readouterr().out
        assert run("--test", "--json", "--config", str(config)) == 0
        document = json.loads(capsys.readouterr().out)

    assert code == 1
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert "sent" in lines["webhooks.well"]
    assert "HTTP status 500" in lines["webhooks.ill"]
    assert "hush" not in shown
    assert json.loads(well.got[0].body)["type"] == "test.once"
    assert document["webhooks.ill"]["verdict"] == "sent"


def test_the_public_key_and_what_is_wrong_with_files_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret_file(tmp_path / "ed", ED_SECRET)
    secret_file(tmp_path / "open", HMAC_SECRET).chmod(0o644)
    hooks = "".join(
        f"    {name}: {{url: 'https://{name}.example/hush', secret_file: {tmp_path / name}}}\n"
        for name in ("ed", "open")
    )

    assert run("--config", str(written(tmp_path, f"notify:\n  webhooks:\n{hooks}"))) == 0

    shown = capsys.readouterr().out
    assert "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" in shown
    assert "others can read it" in shown
    assert "The daemon does not answer" in shown
    assert "hush" not in shown


def test_nothing_configured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--config", str(written(tmp_path, ""))) == 2

    assert "notify_off" in capsys.readouterr().err
