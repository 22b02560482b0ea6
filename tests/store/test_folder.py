import multiprocessing
from pathlib import Path

import pytest

from kaalia.config import Config
from kaalia.errors import ConfigError, StoreError
from kaalia.store import folder
from kaalia.store.changes import Changes


def hold_lock(path: Path, held: "multiprocessing.synchronize.Event") -> None:
    with folder.locked(path):
        held.set()
        multiprocessing.Event().wait(30)


def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    folder.prepare(tmp_path / "deep" / "state")

    assert ((tmp_path / "deep" / "state").stat().st_mode & 0o777) == 0o700


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError) as caught:
        folder.prepare(tmp_path / "file" / "state")

    assert caught.value.code == "state_dir_unusable"


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path / "lock", held))
    other.start()
    assert held.wait(30)

    with pytest.raises(ConfigError) as caught, folder.locked(tmp_path / "lock"):
        pass
    assert caught.value.code == "already_running"
    assert str(other.pid) in str(caught.value)

    other.kill()
    other.join()
    with folder.locked(tmp_path / "lock"):
        pass


async def test_a_fresh_machine_gets_a_fresh_database(tmp_path: Path) -> None:
    config = Config.model_validate({"state_dir": tmp_path})

    database = await folder.open_database(config, Changes())
    await database.close()

    assert config.database_path.stat().st_size > 0


async def test_an_enrolled_machine_without_state_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"state_dir": tmp_path})
    config.identity_path.touch()

    with pytest.raises(StoreError) as caught:
        await folder.open_database(config, Changes())

    assert caught.value.code == "state_missing"
    assert not config.database_path.exists()


async def test_a_new_state_takes_its_place_only_when_all_went_well(tmp_path: Path) -> None:
    config = Config.model_validate({"state_dir": tmp_path})
    config.identity_path.touch()
    with pytest.raises(KeyError):
        async with folder.new_state(config, Changes()):
            raise KeyError("the marketplace refused")
    assert {path.name for path in tmp_path.iterdir()} == {"identity.pem"}

    async with folder.new_state(config, Changes()):
        pass

    database = await folder.open_database(config, Changes())
    await database.close()


async def test_a_new_state_replaces_none_that_exists(tmp_path: Path) -> None:
    config = Config.model_validate({"state_dir": tmp_path})
    config.database_path.write_text("damaged, but somebody may repair it")

    with pytest.raises(StoreError) as caught:
        async with folder.new_state(config, Changes()):
            pass

    assert caught.value.code == "state_exists"
    assert config.database_path.read_text().startswith("damaged")


def test_a_folder_that_lost_its_writability_is_left_to_safe_mode(tmp_path: Path) -> None:
    folder.prepare(tmp_path, tmp_path / "identity.pem")
    (tmp_path / "lock").write_text("1\n")

    with folder.locked(tmp_path / "lock"):
        pass
