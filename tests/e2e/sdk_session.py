"""The renter's and the host's day through the SDK class. Runs in the client's own interpreter, prints one JSON object.

Reads VAST_URL and VAST_API_KEY (renter), and the DEMO_* variables that the flow sets.
"""

import json
import os
import time
from typing import Any

from vastai import VastAI

IMAGE = os.environ["DEMO_IMAGE"]
MACHINE_ID = int(os.environ["DEMO_MACHINE_ID"])
SERVE = ["sh", "-c", os.environ["DEMO_SERVE"]]
URL = os.environ["VAST_URL"]


def main() -> None:
    renter = VastAI(server_url=URL, raw=True, quiet=True)
    host = VastAI(api_key=os.environ["DEMO_HOST_KEY"], server_url=URL, raw=True, quiet=True)
    seen: dict[str, Any] = {"machines": len(host.show_machines())}
    host.list_machine(id=MACHINE_ID, price_gpu=0.3)
    seen["instance"] = rent_and_look(renter)
    seen["template"] = template_round(renter)
    print(json.dumps(seen))


def rent_and_look(sdk: Any) -> dict[str, Any]:
    """Search, create, show, label, logs, stop, start, reboot, destroy."""
    query = f"verified=any num_gpus=1 gpu_name=RTX_4090 machine_id={MACHINE_ID}"
    offers = sdk.search_offers(query=query, limit=1)
    made = sdk.create_instance(
        id=offers[0]["id"], image=IMAGE, disk=1, env="-e FROM=sdk -p 8000:8000 -h sdkhost", args=SERVE
    )
    number = made["new_contract"]
    running = wait(sdk, number, "running")
    sdk.label_instance(id=number, label="by-sdk")
    labels = [row["label"] for row in sdk.show_instances() if row["id"] == number]
    logs = str(sdk.logs(instance_id=number))
    sdk.stop_instance(id=number)
    wait(sdk, number, "stopped")
    sdk.start_instance(id=number)
    again = wait(sdk, number, "running")
    sdk.reboot_instance(id=number)
    wait(sdk, number, "running")
    sdk.destroy_instance(id=number)
    gone = [row for row in sdk.show_instances() if row["id"] == number] == []
    same_ports = running["ports"] == again["ports"]
    return {"price": offers[0]["dph_base"], "labels": labels, "logs": logs, "same_ports": same_ports, "gone": gone}


def template_round(sdk: Any) -> dict[str, Any]:
    """Create, search, update, rent with overrides, delete."""
    name, tag = IMAGE.split(":")
    made = sdk.create_template(
        name="sdk", image=name, image_tag=tag, env="-e MODEL_ID=a -e MAX_TOKENS=4096 -p 8000:8000", disk_space=2
    )
    template = made.get("template", made)
    updated = sdk.update_template(template["hash_id"], name="sdk two")
    found = sdk.search_templates(query=f"id={template['id']}")
    new = updated.get("template", updated)
    offer = free_offer(sdk, num_gpus=2)
    env = "-e MODEL_ID=b -e HF_TOKEN=hf_xxx"
    number = sdk.create_instance(id=offer["id"], template_hash=new["hash_id"], disk=2.0, env=env, args=SERVE)[
        "new_contract"
    ]
    row = wait(sdk, number, "running")
    sdk.destroy_instance(id=number)
    sdk.delete_template(template_id=template["id"])
    left = sdk.search_templates(query=f"id={template['id']}")
    return {"names": [t["name"] for t in found], "env": dict(row["extra_env"]), "left": len(left)}


def free_offer(sdk: Any, num_gpus: int) -> Any:
    """The machine proves a destroyed instance gone before it offers its GPUs again: a moment."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        offers = sdk.search_offers(query=f"verified=any num_gpus={num_gpus} machine_id={MACHINE_ID}")
        if offers:
            return offers[0]
        time.sleep(0.2)
    raise TimeoutError(f"no offer of {num_gpus} GPUs came back")


def wait(sdk: Any, number: int, status: str) -> Any:
    """Poll `show instance` until it says what is waited for."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        row = sdk.show_instance(id=number)
        if row["actual_status"] == status:
            return row
        time.sleep(0.1)
    raise TimeoutError(f"instance {number} is {row['actual_status']} instead of {status}: {row['status_msg']}")


if __name__ == "__main__":
    main()
