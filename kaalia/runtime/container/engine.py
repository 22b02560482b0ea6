"""All that is asked of the Docker Engine, as typed calls. Each failure is a WorkloadError; see `link`."""

import asyncio
import http
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.model.machine import Engine
from kaalia.runtime.container.facts import cdi_devices, engine_facts, has_gpu_hook, ulimits
from kaalia.runtime.container.faults import classify, refusal, stalled
from kaalia.runtime.container.link import (
    LOOK_TIMEOUT_S,
    WORK_TIMEOUT_S,
    AbsentError,
    APIClient,
    EngineLink,
    login_header,
)
from kaalia.runtime.container.stream import Stream, peer_pid

Document = dict[str, Any]

MAX_READ_BYTES = 1024**2
_EVENTS = ("create", "start", "die", "oom", "pause", "unpause", "rename", "destroy")
"""What changes a container's state. Not health checks and execs: a tenant makes as many as it likes."""


class DockerEngine(EngineLink):
    """The engine itself, its images, containers and networks."""

    # The engine itself

    async def facts(self) -> Engine:
        def read(client: APIClient) -> Engine:
            info = client.info()
            return engine_facts(
                client.version(),
                info,
                mounts=Path("/proc/mounts").read_text().splitlines(),
                cdi_devices=cdi_devices(info),
                has_gpu_hook=has_gpu_hook(peer_pid(self.socket_path, LOOK_TIMEOUT_S)),
            )

        return await self._look("ask the container engine", read)

    async def ulimits(self) -> list[Document]:
        """The resource limits that this engine can give to a container."""
        return await self._look(
            "ask for the engine's limits", lambda _: ulimits(peer_pid(self.socket_path, LOOK_TIMEOUT_S))
        )

    async def events(self, label_filter: str) -> AsyncIterator[Document | None]:
        """Container events of objects with the label, until the engine goes. None comes first: events are heard now."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Document | Stream | None] = asyncio.Queue()
        stream, doing = Stream(self.socket_path), "follow the engine's events"
        filters = {"type": ["container"], "label": [label_filter], "event": _EVENTS}
        params = {"filters": json.dumps(filters)}

        def read() -> None:
            with stream:
                stream.open(doing, "GET", self._path("/events"), params)
                loop.call_soon_threadsafe(queue.put_nowait, None)
                for document in stream.documents():
                    loop.call_soon_threadsafe(queue.put_nowait, document)

        reading = loop.run_in_executor(self._long, self._translated, doing, read)
        self._register(stream, reading)
        reading.add_done_callback(lambda _: queue.put_nowait(stream))
        try:
            while not isinstance(event := await queue.get(), Stream):
                yield event
            await reading
        finally:
            reading.cancel()

    # Images

    async def image(self, reference: str) -> Document | None:
        """The image's inspection, None when it is not present."""

        def inspect(client: APIClient) -> Document | None:
            with suppress(AbsentError):
                return dict(client.inspect_image(reference))  # type: ignore[no-untyped-call]
            return None

        return await self._look(f"inspect image {reference}", inspect)

    async def images(self, label_filter: str | None = None) -> list[Document]:
        """One entry for each image, with or without a tag."""
        filters = {"label": label_filter} if label_filter else None
        return await self._look("list images", lambda client: list(client.images(filters=filters)))

    async def used_images(self) -> frozenset[str]:
        """Ids of images that any container was made from, whosever it is."""
        return await self._look(
            "list images in use", lambda client: frozenset(str(one["ImageID"]) for one in client.containers(all=True))
        )

    async def load_image(self, tar: bytes) -> None:
        """`docker load`. Raises `engine_refused` and the like."""

        def load(client: APIClient) -> None:
            for document in client.load_image(tar, quiet=True):  # type: ignore[no-untyped-call]
                if "errorDetail" in document or "error" in document:
                    raise classify("load an image", refusal(document))

        await self._work("load an image", load)

    async def import_image(self, tar: Iterable[bytes], repository: str, tag: str, changes: Sequence[str]) -> None:
        """`docker import` of a root filesystem. `tar`: its pieces, taken in another thread. `changes`: of a Dockerfile.

        Raises `engine_refused`; where the engine breaks off before the last piece, `engine_unavailable`.
        """
        doing = f"import {repository}:{tag}"

        def load(client: APIClient) -> None:
            told = client.import_image(tar, repository, tag, changes=list(changes))
            for line in filter(str.strip, str(told).splitlines()):
                document = json.loads(line)
                if "errorDetail" in document or "error" in document:
                    raise classify(doing, refusal(document))

        await self._work(doing, load)

    async def remove_image(self, image_id: str) -> None:
        """This one by id, never by force, and no parents with it. Absent is success. Raises `engine_conflict`."""

        def remove(client: APIClient) -> None:
            with suppress(AbsentError):
                client.remove_image(image_id, force=False, noprune=True)

        await self._work(f"remove image {image_id[:19]}", remove)

    def start_transfer(
        self,
        doing: str,
        path: str,
        params: Mapping[str, str],
        login: Mapping[str, str],
        silence_s: float,
        on_document: Callable[[Document], None],
    ) -> asyncio.Future[None]:
        """POST what lasts, calling `on_document` *in another thread* for each line of progress. Cancelling cuts it.

        `login` is {} or {username, password, serveraddress}; it travels in the header of this one request.
        """
        stream = Stream(self.socket_path, silence_s)
        headers = login_header(login)

        def read() -> None:
            with stream:
                try:
                    stream.open(doing, "POST", self._path(path), params, headers)
                    for document in stream.documents():
                        if "errorDetail" in document or "error" in document:
                            raise classify(doing, refusal(document))
                        on_document(document)
                except TimeoutError as error:
                    raise stalled(doing, silence_s, str(error)) from error

        moving = asyncio.get_running_loop().run_in_executor(self._long, self._translated, doing, read)
        self._register(stream, moving)
        return moving

    # Containers

    async def containers(self, *label_filters: str, with_sizes: bool = False) -> list[Document]:
        """One entry for each container with all of the labels, running or not. Sizes cost a walk over all files."""

        def read(client: APIClient) -> list[Document]:
            return list(client.containers(all=True, size=with_sizes, filters={"label": list(label_filters)}))

        return await (self._work if with_sizes else self._look)("list containers", read)

    async def usage(self) -> Document:
        """`docker system df`: walks the files of every container, so it takes its time."""
        return await self._work("measure the engine's disk", lambda client: dict(client.df()))

    async def mount_sources(self) -> frozenset[str]:
        """Folders of the machine that any container has mounted, whosever it is."""

        def read(client: APIClient) -> frozenset[str]:
            found = client.containers(all=True)
            return frozenset(str(mount.get("Source", "")) for one in found for mount in one.get("Mounts") or [])

        return await self._look("list mounts", read)

    async def inspect_container(self, name: str) -> Document | None:
        """The inspection, None when it is proven absent."""

        def inspect(client: APIClient) -> Document | None:
            with suppress(AbsentError):
                return dict(client.inspect_container(name))
            return None

        return await self._look(f"inspect {name}", inspect)

    async def create_container(self, name: str, body: Document) -> str:
        """The new container's id. Raises `name_taken`, `image_not_found`, ..."""

        def create(client: APIClient) -> str:
            return str(client.create_container_from_config(body, name)["Id"])  # type: ignore[no-untyped-call]

        return await self._work(f"create {name}", create)

    async def rename_container(self, container_id: str, name: str) -> None:
        """Running or not. Raises `name_taken`."""
        await self._work(f"rename to {name}", lambda client: client.rename(container_id, name))

    async def has_path(self, container_id: str, name: str, path: str) -> bool:
        """Something lies at this path of the container."""

        def read() -> bool:
            with Stream(self.socket_path, self._look_timeout_s) as stream:
                try:
                    stream.open(
                        f"look into {name}", "HEAD", self._path(f"/containers/{container_id}/archive"), {"path": path}
                    )
                except WorkloadError as error:
                    if error.code == "not_found":
                        return False
                    raise
                return True

        return await self._in_thread(self._calls, f"look into {name}", read)

    async def get_archive(self, container_id: str, name: str, path: str) -> bytes | None:
        """A tar of what lies there, of a large file the beginning; None: nothing does."""

        def read() -> bytes | None:
            with Stream(self.socket_path, self._look_timeout_s) as stream:
                try:
                    place = self._path(f"/containers/{container_id}/archive")
                    stream.open(f"read {path} of {name}", "GET", place, {"path": path})
                except WorkloadError as error:
                    if error.code == "not_found":
                        return None
                    raise
                return stream.beginning(MAX_READ_BYTES)

        return await self._in_thread(self._calls, f"read {path} of {name}", read)

    async def put_archive(self, container_id: str, name: str, path: str, tar: bytes) -> None:
        await self._work(f"write into {name}", lambda client: client.put_archive(container_id, path, tar))

    async def start(self, container_id: str, name: str) -> bool:
        """False: it ran already, which docker-py does not tell. An earlier request under way is waited for."""
        doing = f"start {name}"

        def start() -> bool:
            with Stream(self.socket_path, WORK_TIMEOUT_S) as stream:
                status = stream.open(doing, "POST", self._path(f"/containers/{container_id}/start"), {})
                return status != http.HTTPStatus.NOT_MODIFIED

        return await self._in_thread(self._calls, doing, start)

    async def stop(self, container_id: str, name: str, grace_s: float) -> None:
        """The image's stop signal, then SIGKILL after the grace. Not running is success."""
        await self._in_thread(
            self._long,
            f"stop {name}",
            lambda: self._client(self._look_timeout_s).stop(container_id, timeout=max(0, round(grace_s))),
        )

    async def remove_container(self, container_id: str, name: str) -> None:
        """Kill and remove, with its anonymous volumes. Absent is success."""

        def remove(client: APIClient) -> None:
            with suppress(AbsentError):
                client.remove_container(container_id, v=True, force=True)

        await self._work(f"remove {name}", remove)

    async def logs(self, container_id: str, name: str, tail: int) -> bytes:
        """The last `tail` lines, of which at most the last MiB."""
        params = {"stdout": "1", "stderr": "1", "tail": str(tail)}
        doing = f"read the logs of {name}"

        def read() -> bytes:
            with Stream(self.socket_path, self._look_timeout_s) as stream:
                stream.open(doing, "GET", self._path(f"/containers/{container_id}/logs"), params)
                return stream.last_output(MAX_READ_BYTES)

        return await self._in_thread(self._calls, doing, read)

    # Networks

    async def networks(self, label_filters: Sequence[str]) -> list[Document]:
        return await self._look("list networks", lambda client: client.networks(filters={"label": list(label_filters)}))

    async def create_network(self, body: Document) -> str:
        """The new network's id. Raises `subnet_taken`, `network_exists`."""

        def create(client: APIClient) -> str:
            return str(
                client.create_network(
                    body["Name"],
                    driver=body["Driver"],
                    ipam=body["IPAM"],
                    check_duplicate=body["CheckDuplicate"],
                    labels=body["Labels"],
                    enable_ipv6=body["EnableIPv6"],
                )["Id"]
            )

        return await self._work(f"create network {body['Name']}", create)

    async def remove_network(self, network_id: str, name: str) -> None:
        """Absent is success. Raises `network_busy` while something is connected."""

        def remove(client: APIClient) -> None:
            with suppress(AbsentError):
                client.remove_network(network_id)

        await self._work(f"remove network {name}", remove)
