import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.template import CONTENT_FIELDS, content_hash, edit, merge
from kaalia.errors import ContractError

TEMPLATE: dict[str, Any] = {
    "id": 3001,
    "hash_id": "4e17788f74f075dd9aab7d0d4427968f",
    "creator_id": 7,
    "count_created": 3,
    "name": "vLLM Inference Server",
    "image": "vllm/vllm-openai",
    "tag": "v0.8",
    "env": "-e MODEL_ID=deepseek-ai/DeepSeek-R1-Distill-Llama-8B -e MAX_TOKENS=4096 -p 8000:8000",
    "onstart": 'vllm serve "$MODEL_ID"',
    "runtype": "ssh",
    "use_ssh": True,
    "ssh_direct": True,
    "jup_direct": False,
    "use_jupyter_lab": False,
    "recommended_disk_space": "50",
    "extra_filters": '{"gpu_ram": {"gte": 23000.0}}',
    "readme": "# vLLM",
    "private": True,
    "docker_login_repo": None,
}
CLIENT_DEFAULTS: dict[str, Any] = {
    "client_id": "me",
    "image": None,
    "env": {},
    "price": None,
    "disk": 10,
    "label": None,
    "extra": None,
    "onstart": None,
    "image_login": None,
    "python_utf8": False,
    "lang_utf8": False,
    "use_jupyter_lab": False,
    "jupyter_dir": None,
    "force": False,
    "cancel_unavail": False,
    "template_hash_id": "4e17788f74f075dd9aab7d0d4427968f",
    "user": None,
}
"""What `vastai create instance ID --template_hash H` sends."""
CLIENT_UPDATE: dict[str, Any] = {
    **dict.fromkeys(("image", "tag", "href", "repo", "env", "onstart", "jupyter_dir", "docker_login_repo", "readme")),
    "recommended_disk_space": None,
    "desc": None,
    "jup_direct": False,
    "ssh_direct": False,
    "use_jupyter_lab": False,
    "runtype": "args",
    "use_ssh": False,
    "extra_filters": {"verified": {"eq": True}, "external": {"eq": False}, "rentable": {"eq": True}},
    "readme_visible": True,
    "private": True,
}
"""What `vastai update template H` sends beside id and hash."""

scalars = st.none() | st.booleans() | st.text(max_size=8) | st.integers(0, 99)
documents = st.fixed_dictionaries(
    {},
    optional={
        **{key: scalars for key in CONTENT_FIELDS if key not in ("extra_filters", "recommended_disk_space")},
        "extra_filters": st.none() | st.dictionaries(st.text(max_size=3), st.just({"eq": 1}), max_size=2),
        "recommended_disk_space": st.none() | st.integers(0, 99),
        "id": st.integers(),
        "count_created": st.integers(),
    },
)


def test_the_clients_defaults_change_nothing() -> None:
    merged = merge(TEMPLATE, CLIENT_DEFAULTS)

    assert merged["image"] == "vllm/vllm-openai:v0.8"
    assert merged["disk"] == 50.0
    assert merged["runtype"] == "ssh_direc ssh_proxy"
    assert merged["onstart"] == 'vllm serve "$MODEL_ID"'
    assert merged["extra_filters"] == {"gpu_ram": {"gte": 23000.0}}
    assert merged["env"] == {
        "MODEL_ID": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "MAX_TOKENS": "4096",
        "-p 8000:8000": "1",
    }
    assert merged["use_jupyter_lab"] is False
    assert "label" not in merged


@pytest.mark.parametrize(
    "env",
    [
        "-e MODEL_ID=mistralai/Mistral-7B-v0.1 -e HF_TOKEN=hf_xxx -p 9000:9000",
        {"MODEL_ID": "mistralai/Mistral-7B-v0.1", "HF_TOKEN": "hf_xxx", "-p 9000:9000": "1"},
    ],
)
def test_env_is_merged_by_key_and_the_request_wins(env: object) -> None:
    assert merge(TEMPLATE, {"env": env})["env"] == {
        "MODEL_ID": "mistralai/Mistral-7B-v0.1",
        "MAX_TOKENS": "4096",
        "HF_TOKEN": "hf_xxx",
        "-p 8000:8000": "1",
        "-p 9000:9000": "1",
    }


@pytest.mark.parametrize(
    ("asked", "recommended", "disk"),
    [
        (10, "50", 50.0),
        (10.0, "50", 10.0),
        (None, "50", 50.0),
        (64, "50", 64),
        (8.5, 50, 8.5),
        (10, None, 10),
        (10, "", 10),
        (10, "0", 10),
        (10, "8.0", 8.0),
    ],
)
def test_an_integer_ten_is_the_clients_default_disk(asked: object, recommended: object, disk: float) -> None:
    merged = merge({"recommended_disk_space": recommended}, {"disk": asked})

    assert merged["disk"] == disk
    assert type(merged["disk"]) is type(disk)


def test_no_disk_anywhere_stays_open() -> None:
    assert "disk" not in merge({}, {"disk": None})


def test_given_scalars_override() -> None:
    request = {**CLIENT_DEFAULTS, "image": "nvidia/cuda:12.1", "onstart": "sleep 1", "runtype": "args", "price": 0.1}

    merged = merge(TEMPLATE, request)

    assert (merged["image"], merged["onstart"], merged["runtype"]) == ("nvidia/cuda:12.1", "sleep 1", "args")
    assert merged["price"] == 0.1


def test_extra_filters_are_merged_by_key() -> None:
    request = {"extra_filters": {"gpu_ram": {"gte": 1}, "num_gpus": {"eq": 1}}}

    assert merge(TEMPLATE, request)["extra_filters"] == {"gpu_ram": {"gte": 1}, "num_gpus": {"eq": 1}}


@pytest.mark.parametrize(
    ("template", "runtype"),
    [
        ({"runtype": "jupyter", "jup_direct": True, "use_ssh": True}, "jupyter_direc ssh_direc ssh_proxy"),
        ({"runtype": "jupyter", "jup_direct": False}, "jupyter_proxy ssh_proxy"),
        ({"runtype": "ssh", "ssh_direct": True}, "ssh_direc ssh_proxy"),
        ({"runtype": "ssh"}, "ssh_proxy"),
        ({"use_ssh": True}, "ssh_proxy"),
        ({"runtype": "args"}, "args"),
        ({"runtype": None}, None),
        ({}, None),
    ],
)
def test_runtype_of_a_template(template: dict[str, Any], runtype: str | None) -> None:
    assert merge(template, {}).get("runtype") == runtype


@pytest.mark.parametrize(
    ("image", "tag", "merged"),
    [
        ("a/b", "1", "a/b:1"),
        ("a/b:2", "1", "a/b:2"),
        ("host:5000/a/b", "1", "host:5000/a/b:1"),
        ("a/b@sha256:0", "1", "a/b@sha256:0"),
        ("a/b", None, "a/b"),
    ],
)
def test_tag_joins_an_image_without_one(image: str, tag: str | None, merged: str) -> None:
    assert merge({"image": image, "tag": tag}, {"image": None})["image"] == merged


def test_a_templates_flags_hold_against_the_clients_false() -> None:
    template = {"use_jupyter_lab": True, "jupyter_dir": "/work"}

    merged = merge(template, CLIENT_DEFAULTS)

    assert merged["use_jupyter_lab"] is True
    assert merged["jupyter_dir"] == "/work"


def test_arguments_of_the_request_replace_those_of_the_template() -> None:
    assert merge({"args_str": "a b"}, {})["args_str"] == "a b"
    assert "args_str" not in merge({"args_str": "a b"}, {"args": []})


def test_a_stored_registry_login_is_used_unless_the_request_has_one() -> None:
    template = {"docker_login_repo": "ghcr.io", "docker_login_user": "bob", "docker_login_pass": "p w"}

    assert merge(template, {})["image_login"] == "-u bob -p 'p w' ghcr.io"
    assert merge(template, {"image_login": "-u eve -p x"})["image_login"] == "-u eve -p x"
    assert "image_login" not in merge({"docker_login_repo": "ghcr.io"}, {})


@pytest.mark.parametrize(
    "template",
    [
        {"recommended_disk_space": "much"},
        {"recommended_disk_space": -1},
        {"recommended_disk_space": "nan"},
        {"extra_filters": "{"},
        {"extra_filters": "[1]"},
        {"extra_filters": [1]},
    ],
)
def test_bad_templates_are_refused(template: dict[str, Any]) -> None:
    with pytest.raises(ContractError) as caught:
        merge(template, {})

    assert caught.value.code == "template_invalid"
    with pytest.raises(ContractError):
        content_hash(template)


def test_hash_is_of_the_content_alone() -> None:
    first = content_hash(TEMPLATE)

    assert len(first) == 32
    assert int(first, 16) >= 0
    assert content_hash(dict(reversed(TEMPLATE.items()))) == first
    assert content_hash({**TEMPLATE, "id": 1, "count_created": 99, "hash_id": "x", "creator_id": 8}) == first
    assert content_hash({**TEMPLATE, "extra_filters": json.loads(TEMPLATE["extra_filters"])}) == first
    assert content_hash({**TEMPLATE, "recommended_disk_space": 50.0}) == first
    assert content_hash({**TEMPLATE, "desc": None}) == first


@pytest.mark.parametrize("field", ["name", "image", "tag", "env", "onstart", "runtype", "readme", "jupyter_dir"])
def test_each_content_field_changes_the_hash(field: str) -> None:
    assert content_hash({**TEMPLATE, field: "other"}) != content_hash(TEMPLATE)


def test_a_password_leaves_no_trace_in_the_hash() -> None:
    assert content_hash({**TEMPLATE, "docker_login_pass": "p"}) == content_hash(TEMPLATE)


def test_the_clients_update_changes_only_what_was_given() -> None:
    edited = edit(TEMPLATE, {**CLIENT_UPDATE, "id": 3001, "hash_id": TEMPLATE["hash_id"], "name": "Renamed"})

    assert {key for key in TEMPLATE if edited[key] != TEMPLATE[key]} == {"name", "hash_id"}
    assert edited["name"] == "Renamed"
    assert edited["hash_id"] == content_hash(edited)


def test_given_launch_flags_and_filters_do_change() -> None:
    changes = {**CLIENT_UPDATE, "runtype": "jupyter", "jup_direct": True, "extra_filters": {"num_gpus": {"eq": 1}}}

    edited = edit(TEMPLATE, changes)

    assert (edited["runtype"], edited["jup_direct"], edited["ssh_direct"]) == ("jupyter", True, False)
    assert edited["extra_filters"] == {"num_gpus": {"eq": 1}}
    assert edit(TEMPLATE, {"runtype": "args"})["runtype"] == "args"
    assert edit(TEMPLATE, {"ssh_direct": False})["ssh_direct"] is False


def test_an_edit_touches_no_ids() -> None:
    edited = edit(TEMPLATE, {"id": 1, "creator_id": 99, "count_created": 0, "unknown": 1, "hash_id": "mine"})

    assert (edited["id"], edited["creator_id"], edited["count_created"]) == (3001, 7, 3)
    assert "unknown" not in edited


@given(documents)
def test_editing_nothing_keeps_content_and_hash(document: dict[str, Any]) -> None:
    edited = edit(document, dict.fromkeys(CONTENT_FIELDS))

    assert edited == {**document, "hash_id": content_hash(document)}
    assert content_hash(edited) == content_hash(document)


@given(documents, documents)
def test_an_edit_done_twice_is_done_once(document: dict[str, Any], changes: dict[str, Any]) -> None:
    once = edit(document, changes)

    assert edit(once, changes) == once


@given(
    st.dictionaries(
        st.from_regex("[A-C]", fullmatch=True), st.text(st.characters(codec="ascii", exclude_characters="\0"))
    )
)
def test_a_request_without_template_keeps_what_it_gives(env: dict[str, str]) -> None:
    request = {"image": "x", "disk": 12, "env": env, "force": False, "label": None}

    assert merge({}, request) == {"image": "x", "disk": 12, "env": env, "force": False}
