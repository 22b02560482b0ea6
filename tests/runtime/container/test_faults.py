"""Docker's words become codes; a tenant's words inside them do not choose the code."""

import pytest

from kaalia.runtime.container.faults import classify


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("Conflict. The container name \"/C.5\" is already in use by container \"6a\"", 409, "name_taken"),
        ("No such container: C.5", 404, "not_found"),
        ("No such image: kaalia/none:latest", 404, "image_not_found"),
        ("manifest for 127.0.0.1:5000/x:none not found: manifest unknown: manifest unknown", 404, "image_not_found"),
        ("pull access denied for x, repository does not exist or needs 'docker login'", 404, "registry_unauthorized"),
        ("Get \"http://h/v2/x/manifests/1\": unauthorized: authentication required", 500, "registry_unauthorized"),
        ("toomanyrequests: You have reached your pull rate limit.", 429, "registry_rate_limited"),
        ("unexpected EOF", None, "pull_interrupted"),
        ("Get \"https://h/v2/\": dial tcp: lookup h: no such host", 500, "registry_unreachable"),
        ("no matching manifest for linux/amd64 in the manifest list entries", 404, "image_platform"),
        ("write /data: no space left on device", None, "disk_full"),
        ("driver failed programming external connectivity on endpoint C.5 (1f): Bind for 0.0.0.0:41000 failed: "
         "port is already allocated", 500, "port_taken"),
        ("Error starting userland proxy: listen tcp4 0.0.0.0:41000: bind: address already in use", 500, "port_taken"),
        ('could not select device driver "" with capabilities: [[gpu]]', 500, "gpu_hook_failed"),
        ("OCI runtime create failed: error running hook #0: nvidia-container-cli: device", 500, "gpu_hook_failed"),
        ("failed to create shim: OCI runtime create failed: exec: \"nope\": executable file not found in $PATH", 400,
         "container_start_failed"),
        ("Pool overlaps with other one on this address space", 403, "subnet_taken"),
        ("network kaalia-5 not found", 404, "network_missing"),
        ("error while removing network: network kaalia-5 id 1f has active endpoints", 403, "network_busy"),
        ("removal of container C.5 is already in progress", 409, "engine_conflict"),
        ("connection error: desc = \"transport is closing\": unavailable", 500, "engine_unavailable"),
        ("something new", 500, "engine_refused"),
    ],
)  # fmt: skip
def test_words_become_codes(text: str, status: int | None, code: str) -> None:
    error = classify("start C.5", text, status)

    assert error.code == code
    assert error.problem.message.startswith("cannot start C.5: ")
    assert error.problem.evidence == text
    assert error.problem.remedy


@pytest.mark.parametrize(
    "word", ["transport is closing", "context canceled", "port is already allocated", "no such image"]
)
def test_tenant_cannot_choose_the_code_by_its_command_line(word: str) -> None:
    text = (
        f'OCI runtime create failed: runc create failed: starting container process caused: exec: "{word}": not found'
    )

    assert classify("start C.5", text, 400).code == "container_start_failed"
