from dataclasses import replace

from kaalia.contracts.environment import Identity, Launch, compose
from kaalia.model.workload import LaunchMode

IDENTITY = Identity(
    contract_id=7001,
    api_key="key",
    jupyter_token="token",
    gpu_count=2,
    marketplace_url="https://market.example",
    ssh_public_keys=(),
)


def test_account_then_request_and_identity_over_all() -> None:
    account = {"A": "account", "B": "account", "CONTAINER_API_KEY": "stolen"}
    asked = [("B", "request"), ("CONTAINER_ID", "1"), ("GPU_COUNT", "1")]

    env = dict(compose(account, asked, IDENTITY, Launch(LaunchMode.ARGS)))

    assert (env["A"], env["B"]) == ("account", "request")
    assert (env["CONTAINER_ID"], env["VAST_CONTAINERLABEL"], env["CONTAINER_API_KEY"]) == ("7001", "C.7001", "key")
    assert env["GPU_COUNT"] == "1"
    assert env["VAST_URL"] == "https://market.example"


def test_names_are_distinct() -> None:
    pairs = compose({"A": "1"}, [("A", "2"), ("VAST_URL", "x")], IDENTITY, Launch(LaunchMode.SSH))

    assert len({name for name, _ in pairs}) == len(pairs)


def test_the_button_token_is_replaced_only_where_it_is_a_placeholder() -> None:
    placeholder = dict(compose({}, [("OPEN_BUTTON_TOKEN", "1")], IDENTITY, Launch(LaunchMode.SSH)))
    chosen = dict(compose({}, [("OPEN_BUTTON_TOKEN", "mine")], IDENTITY, Launch(LaunchMode.SSH)))

    assert (placeholder["OPEN_BUTTON_TOKEN"], chosen["OPEN_BUTTON_TOKEN"]) == ("token", "mine")
    assert "OPEN_BUTTON_TOKEN" not in dict(compose({}, [], IDENTITY, Launch(LaunchMode.SSH)))


def test_what_interfaces_of_images_read_is_passed_as_it_is() -> None:
    asked = {
        "OPEN_BUTTON_PORT": "1111",
        "JUPYTER_PORT": "8080",
        "JUPYTER_DIR": "/workspace",
        "PORTAL_CONFIG": "localhost:1111:11111:/:Instance Portal|localhost:8080:8080:/terminals/1:Jupyter Terminal",
        "PROVISIONING_SCRIPT": "https://example.com/provision.sh?ref=main&x=1",
        "JUPYTER_TYPE": "lab",
    }

    env = dict(compose({}, asked.items(), IDENTITY, Launch(LaunchMode.JUPYTER, jupyter_dir="/other")))

    assert {name: env[name] for name in asked} == asked
    assert env["JUPYTER_TOKEN"] == "token"
    assert "OPEN_BUTTON_PORT" not in dict(compose({}, [], IDENTITY, Launch(LaunchMode.JUPYTER)))


def test_launch_options_become_variables() -> None:
    launch = Launch(
        LaunchMode.JUPYTER, jupyter_dir="/home/notebooks", use_jupyter_lab=True, python_utf8=True, lang_utf8=True
    )

    env = dict(compose({}, [], replace(IDENTITY, ssh_public_keys=("ssh-rsa A", "ssh-rsa B")), launch))

    assert (env["JUPYTER_DIR"], env["JUPYTER_TYPE"], env["JUPYTER_TOKEN"]) == ("/home/notebooks", "lab", "token")
    assert env["JUPYTER_SERVER_URL"] == "https://0.0.0.0:8080/"
    assert env["SSH_PUBLIC_KEY"] == "ssh-rsa A\nssh-rsa B"
    assert (env["LANG"], env["PYTHONUTF8"]) == ("C.UTF-8", "1")


def test_other_modes_have_no_jupyter_server() -> None:
    env = dict(compose({}, [], IDENTITY, Launch(LaunchMode.SSH)))

    assert "JUPYTER_SERVER_URL" not in env
    assert "SSH_PUBLIC_KEY" not in env
