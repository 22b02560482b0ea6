"""What a container gets before its first start, and what changes while it lives: files, keys, folders."""

import asyncio
import io
import tarfile

from kaalia.contracts.contract import Contract
from kaalia.errors import WorkloadError
from kaalia.runtime.base import Placement
from kaalia.runtime.container.access import NOTEBOOK_STATUS, Kit, account, archive, has_access, user_unknown
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.inside import folders, with_parents
from kaalia.runtime.container.kit import AccessFolders, missing
from kaalia.runtime.container.spec import container_name

ROOT = "root"


class Furnisher:
    """`access`: None where nothing is ever started in ssh or jupyter mode."""

    def __init__(self, engine: DockerEngine, access: AccessFolders | None) -> None:
        self._engine = engine
        self._access = access
        self._has_kit = True
        self.kit_changed = asyncio.Event()
        """Set when a container could not be made for want of a kit, and when one can be made again."""

    async def kit(self, contract: Contract) -> Kit | None:
        """What the container mounts, None in mode args. Raises WorkloadError `kit_missing`, HostError."""
        if not has_access(contract.spec):
            return None
        access = self._reachable()
        await asyncio.to_thread(access.write, contract)  # the engine mounts nothing that is not there
        try:
            kit = await asyncio.to_thread(access.kit, contract.contract_id)
        except WorkloadError:
            self._has_kit = False
            self.kit_changed.set()
            raise
        if not self._has_kit:
            self._has_kit = True
            self.kit_changed.set()
        return kit

    async def furnish(self, container_id: str, placement: Placement, paths: tuple[str, ...]) -> None:
        """May be repeated until the first start. Raises WorkloadError `user_unknown`, HostError `access_unwritable`."""
        contract = placement.contract
        name = container_name(contract.contract_id)
        absent = [path for path in with_parents(paths) if not await self._engine.has_path(container_id, name, path)]
        if absent:
            await self._engine.put_archive(container_id, name, "/", folders(absent))
        if tar := archive(contract.spec, contract.contract_id):
            user = await self._account(container_id, name, contract.spec.user)
            await asyncio.to_thread(self._reachable().write, contract, user)
            await self._engine.put_archive(container_id, name, "/", tar)

    async def authorize(self, contract: Contract, chain: str | None, *, is_older: bool = False) -> None:
        """The contract's keys, and no others, may log in from now on. Raises HostError `access_unwritable`."""
        if self._access is not None and is_older:
            await asyncio.to_thread(self._access.renew, contract, chain)
        elif self._access is not None and has_access(contract.spec):
            await asyncio.to_thread(self._access.write, contract, chain=chain)

    async def notebook(self, container_id: str, contract_id: int) -> str | None:
        tar = await self._engine.get_archive(container_id, container_name(contract_id), NOTEBOOK_STATUS)
        return None if tar is None else await asyncio.to_thread(_text, tar)

    async def forget(self, contract_id: int) -> None:
        if self._access is not None:
            await asyncio.to_thread(self._access.forget, contract_id)

    def _reachable(self) -> AccessFolders:
        if self._access is None:
            raise missing("this daemon was told no folder for it")
        return self._access

    async def _account(self, container_id: str, name: str, user: str | None) -> str:
        """The name behind the contract's `user`. A group beside it is not needed: the account has one."""
        wanted = (user or ROOT).partition(":")[0]
        if wanted in (ROOT, "0"):
            return ROOT
        tar = await self._engine.get_archive(container_id, name, "/etc/passwd")
        found = None if tar is None else account(await asyncio.to_thread(_text, tar), wanted)
        if found is None:
            raise user_unknown(wanted)
        return found


def _text(tar: bytes) -> str:
    """The first file of a tar; nothing when it is cut short or none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive_file:
            for member in archive_file:
                if member.isfile() and (content := archive_file.extractfile(member)) is not None:
                    return content.read().decode(errors="replace")
    except tarfile.TarError:
        pass
    return ""
