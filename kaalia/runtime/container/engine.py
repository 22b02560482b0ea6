"""The door to the Docker Engine: its API over its unix socket, in threads.

Short calls share eight threads; what may last (pulls, stops with a grace, the event stream) has its own, so that
looking never waits for them. Every failure leaves here as WorkloadError; `engine_unavailable`: nothing is known.
"""

import asyncio
import base64
import http.client
import json
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from kaalia.model.machine import Engine
from kaalia.runtime.container.call import Call, Document
from kaalia.runtime.container.facts import agreed_api, cdi_devices, engine_facts, has_gpu_hook, ulimits
from kaalia.runtime.container.faults import classify, refusal, stalled, unavailable
from kaalia.runtime.container.stream import Stream, peer_pid

T = TypeVar("T")

DEFAULT_SOCKET = Path("/var/run/docker.sock")
MAX_READ_BYTES = 1024**2

LOOK_TIMEOUT_S = 30
"""An engine that says nothing for this long when it is only asked is taken for hung."""
_WORK_TIMEOUT_S = 180
_EVENTS = ("create", "start", "die", "oom", "pause", "unpause", "rename", "destroy")
"""What changes a container's state. Not health checks and execs: a tenant makes as many as it likes."""
_CALL_THREADS = 8
_LONG_THREADS = 24

_SILENCE = (OSError, http.client.HTTPException, json.JSONDecodeError, struct.error)
"""What an answer that never came, or broke off, raises."""


class DockerEngine:
    """Typed calls to one Docker Engine on a unix socket. Create it anywhere; await it in one event loop."""

    def __init__(self, socket_path: Path = DEFAULT_SOCKET, look_timeout_s: int = LOOK_TIMEOUT_S) -> None:
        self.socket_path = socket_path
        self._look_timeout_s = look_timeout_s
        self._version: str | None = None
        """Of the API, as it was settled with the engine; None: it is to be asked."""
        self._calls = ThreadPoolExecutor(_CALL_THREADS, "docker")
        self._long = ThreadPoolExecutor(_LONG_THREADS, "docker-long")
        self._streams: set[Stream] = set()

    def close(self) -> None:
        """Cut what streams and let the threads end. Touches no workload."""
        for stream in list(self._streams):
            stream.cut()
        for pool in (self._calls, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    # The engine itself

    async def facts(self) -> Engine:
        def read(call: Call) -> Engine:
            info = call.get("/info")
            return engine_facts(
                call.get("/version"),
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
        path = f"/images/{quote(reference, safe='/:')}/json"
        return await self._look(f"inspect image {reference}", lambda call: call.find(path))

    async def images(self, label_filter: str | None = None) -> list[Document]:
        """One entry for each image, with or without a tag."""
        params = _filters([label_filter]) if label_filter else {}
        return await self._look("list images", lambda call: list(call.get("/images/json", params)))

    async def used_images(self) -> frozenset[str]:
        """Ids of images that any container was made from, whosever it is."""
        return await self._look(
            "list images in use", lambda call: frozenset(str(one["ImageID"]) for one in _containers(call))
        )

    async def load_image(self, tar: bytes) -> None:
        """`docker load`. Raises `engine_refused` and the like."""

        def load(call: Call) -> None:
            for document in call.load("/images/load", {"quiet": "1"}, tar):
                if "errorDetail" in document or "error" in document:
                    raise classify("load an image", refusal(document))

        await self._work("load an image", load)

    async def remove_image(self, image_id: str) -> None:
        """This one by id, never by force, and no parents with it. Absent is success. Raises `engine_conflict`."""
        path, params = f"/images/{quote(image_id, safe=':')}", {"force": "0", "noprune": "1"}
        await self._work(f"remove image {image_id[:19]}", lambda call: call.delete(path, params))

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
        # Never without the header: the engine's host may hold logins of its owner.
        headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(dict(login)).encode()).decode()}

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
        params = {"size": str(int(with_sizes)), **_filters(label_filters)}
        ask = self._work if with_sizes else self._look
        return await ask("list containers", lambda call: _containers(call, params))

    async def usage(self) -> Document:
        """`docker system df`: walks the files of every container, so it takes its time."""
        return await self._work("measure the engine's disk", lambda call: dict(call.get("/system/df")))

    async def mount_sources(self) -> frozenset[str]:
        """Folders of the machine that any container has mounted, whosever it is."""

        def read(call: Call) -> frozenset[str]:
            found = _containers(call)
            return frozenset(str(mount.get("Source", "")) for one in found for mount in one.get("Mounts") or [])

        return await self._look("list mounts", read)

    async def inspect_container(self, name: str) -> Document | None:
        """The inspection, None when it is proven absent."""
        return await self._look(f"inspect {name}", lambda call: call.find(f"/containers/{name}/json"))

    async def create_container(self, name: str, body: Document) -> str:
        """The new container's id. Raises `name_taken`, `image_not_found`, ..."""
        return await self._work(
            f"create {name}", lambda call: str(call.post("/containers/create", {"name": name}, body)["Id"])
        )

    async def rename_container(self, container_id: str, name: str) -> None:
        """Running or not. Raises `name_taken`."""
        path = f"/containers/{container_id}/rename"
        await self._work(f"rename to {name}", lambda call: call.post(path, {"name": name}))

    async def has_path(self, container_id: str, name: str, path: str) -> bool:
        """Something lies at this path of the container."""

        def read() -> bool:
            with Stream(self.socket_path, self._look_timeout_s) as stream:
                place = self._path(f"/containers/{container_id}/archive")
                status = stream.open(f"look into {name}", "HEAD", place, {"path": path}, may_be_absent=True)
                return status != HTTPStatus.NOT_FOUND

        return await self._in_thread(self._calls, f"look into {name}", read)

    async def get_archive(self, container_id: str, name: str, path: str) -> bytes | None:
        """A tar of what lies there, of a large file the beginning; None: nothing does."""

        def read() -> bytes | None:
            with Stream(self.socket_path, self._look_timeout_s) as stream:
                place = self._path(f"/containers/{container_id}/archive")
                status = stream.open(f"read {path} of {name}", "GET", place, {"path": path}, may_be_absent=True)
                return None if status == HTTPStatus.NOT_FOUND else stream.beginning(MAX_READ_BYTES)

        return await self._in_thread(self._calls, f"read {path} of {name}", read)

    async def put_archive(self, container_id: str, name: str, path: str, tar: bytes) -> None:
        place = f"/containers/{container_id}/archive"
        await self._work(f"write into {name}", lambda call: call.put(place, {"path": path}, tar))

    async def start(self, container_id: str, name: str) -> bool:
        """False: it ran already. An earlier request under way is waited for."""
        doing = f"start {name}"

        def start() -> bool:
            with Stream(self.socket_path, _WORK_TIMEOUT_S) as stream:
                status = stream.open(doing, "POST", self._path(f"/containers/{container_id}/start"), {})
                return status != HTTPStatus.NOT_MODIFIED

        return await self._in_thread(self._calls, doing, start)

    async def stop(self, container_id: str, name: str, grace_s: float) -> None:
        """The image's stop signal, then SIGKILL after the grace. Not running is success."""
        doing, seconds = f"stop {name}", max(0, round(grace_s))
        path, params = f"/containers/{container_id}/stop", {"t": str(seconds)}

        def stop() -> None:
            self._call(doing, self._look_timeout_s + seconds).post(path, params)

        await self._in_thread(self._long, doing, stop)

    async def remove_container(self, container_id: str, name: str) -> None:
        """Kill and remove, with its anonymous volumes. Absent is success."""
        path, params = f"/containers/{container_id}", {"v": "1", "force": "1"}
        await self._work(f"remove {name}", lambda call: call.delete(path, params))

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
        return await self._look("list networks", lambda call: list(call.get("/networks", _filters(label_filters))))

    async def create_network(self, body: Document) -> str:
        """The new network's id. Raises `subnet_taken`, `network_exists`."""
        doing = f"create network {body['Name']}"
        return await self._work(doing, lambda call: str(call.post("/networks/create", body=body)["Id"]))

    async def remove_network(self, network_id: str, name: str) -> None:
        """Absent is success. Raises `network_busy` while something is connected."""
        await self._work(f"remove network {name}", lambda call: call.delete(f"/networks/{network_id}"))

    async def _look(self, doing: str, work: Callable[[Call], T]) -> T:
        return await self._in_thread(self._calls, doing, lambda: work(self._call(doing, self._look_timeout_s)))

    async def _work(self, doing: str, work: Callable[[Call], T]) -> T:
        return await self._in_thread(self._calls, doing, lambda: work(self._call(doing, _WORK_TIMEOUT_S)))

    async def _in_thread(self, pool: ThreadPoolExecutor, doing: str, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, self._translated, doing, work)

    def _register(self, stream: Stream, reading: asyncio.Future[None]) -> None:
        """Keep the stream where `close` finds it, and cut it when its future ends or is cancelled."""

        def ended(future: asyncio.Future[None]) -> None:
            stream.cut()
            self._streams.discard(stream)
            if not future.cancelled():
                # Everyone who waited may have gone; asyncio would complain of an exception that nobody fetched.
                future.exception()

        self._streams.add(stream)
        reading.add_done_callback(ended)

    def _translated(self, doing: str, work: Callable[[], T]) -> T:
        """Run `work` in this thread; what the socket or a broken answer raises becomes a WorkloadError."""
        try:
            return work()
        except _SILENCE as error:
            self._version = None  # the engine may come back as another one
            raise unavailable(doing, str(error)) from error

    def _call(self, doing: str, silence_s: float) -> Call:
        """The API version is settled with the engine at first use."""
        version = self._version
        if version is None:
            with Stream(self.socket_path, self._look_timeout_s) as stream:
                stream.open("ask the container engine", "GET", "/version", {})
                version = self._version = agreed_api(stream.document())
        return Call(self.socket_path, version, doing, silence_s)

    def _path(self, path: str) -> str:
        return self._call("ask the container engine", self._look_timeout_s).path(path)


def _containers(call: Call, params: Mapping[str, str] | None = None) -> list[Document]:
    return list(call.get("/containers/json", {"all": "1", **(params or {})}))


def _filters(labels: Sequence[str]) -> dict[str, str]:
    return {"filters": json.dumps({"label": list(labels)})}
