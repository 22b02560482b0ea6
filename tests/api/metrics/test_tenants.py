"""A tenant's file: his own values, in his own folder, renewed; and nobody's where there is no folder."""

from functools import partial
from pathlib import Path

from kaalia.api.metrics.scrape import Scraper
from kaalia.api.metrics.tenants import TenantMetricsService
from kaalia.runtime.container.kit import put_file
from tests.api.conftest import Local
from tests.support.builders import build_report
from tests.support.clock import START
from tests.support.crowd import FIRST, crowd


async def test_each_tenant_finds_his_own(local: Local, tmp_path: Path) -> None:
    await local.database.transaction(partial(crowd, at=START))
    for number in (FIRST, FIRST + 1, FIRST + 20):
        (tmp_path / f"C.{number}").mkdir()
    service = TenantMetricsService(Scraper(local.context), partial(put_file, tmp_path), 60)

    await service.tell()

    files = {path.parent.name: path for path in tmp_path.glob("C.*/*")}
    assert files.keys() == {f"C.{FIRST}", f"C.{FIRST + 1}"}, "those that run, and have a folder"
    uuids = [gpu.uuid for gpu in build_report(gpus=8).gpus]
    for number, path in enumerate(files[f"C.{FIRST + index}"] for index in range(2)):
        text = path.read_text()
        assert path.name == "metrics.prom"
        assert path.stat().st_mode & 0o777 == 0o644
        assert [uuid for uuid in uuids if uuid in text] == [uuids[number]]
        assert f'kaalia_gpu_power_watts{{gpu="{uuids[number]}"}} 312.5' in text


async def test_a_folder_that_cannot_be_written_keeps_no_other_from_its_file(local: Local, tmp_path: Path) -> None:
    await local.database.transaction(partial(crowd, at=START))
    (tmp_path / f"C.{FIRST}" / "metrics.prom").mkdir(parents=True)
    (tmp_path / f"C.{FIRST + 1}").mkdir()

    await TenantMetricsService(Scraper(local.context), partial(put_file, tmp_path), 60).tell()

    assert (tmp_path / f"C.{FIRST + 1}" / "metrics.prom").is_file()
