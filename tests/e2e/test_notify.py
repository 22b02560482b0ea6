"""The owner is told by webhook of what renters and he himself do at the marketplace."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.rented import destroy, process, rent, running_stack
from tests.notify.test_secret import HMAC_SECRET
from tests.support.docker_engine import PrivateDocker
from tests.support.owner import Receiver, receiver, secret_file
from tests.support.waiting import wait_until

pytestmark = pytest.mark.docker


def events(to: Receiver) -> dict[str, str]:
    """Type -> message of all that came."""
    told = [json.loads(got.body) for got in to.got]
    return {one["type"]: one["data"]["message"] for one in told}


def test_a_report_and_a_window_reach_the_owner(docker_host: PrivateDocker, tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "secret", HMAC_SECRET)
    with receiver() as to:
        notify = {"delay_s": 0, "webhooks": {"ops": {"url": to.url, "secret_file": str(secret)}}}
        with running_stack(docker_host, tmp_path, config={"notify": notify}) as stack:
            stack.list_machine()
            instance = rent(stack)
            stack.wait_status(instance, "running")
            before = process(stack, instance)
            machine = stack.host_api.call("GET", "/api/v0/machines", {})[1]["machines"][0]["id"]

            report = {"problem": "slow disk", "message": "10 MB/s"}
            code, reply = stack.renter_api.call("POST", f"/api/v0/machines/{machine}/reports/", report)
            assert code == 200, reply
            wait_until("the report to be told", lambda: "reported_by_renter.once" in events(to), 120)
            assert "slow disk: 10 MB/s" in events(to)["reported_by_renter.once"]

            start = datetime.now(UTC) + timedelta(days=2)
            window = {"client_id": "me", "sdate": start.timestamp(), "duration": 2}
            code, reply = stack.host_api.call("PUT", f"/api/v0/machines/{machine}/dnotify/", window)
            assert code == 200, reply
            wait_until("the window to be told", lambda: "maintenance_confirmed.once" in events(to), 120)
            assert process(stack, instance) == before
            shown = stack.kaalia("notify", "--config", str(stack.config_file))
            assert "reported_by_renter" in shown.stdout
            destroy(stack, instance)
