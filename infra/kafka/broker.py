"""A Kafka broker on this machine: in Docker when an engine answers, else Java with Maven's jars.

Invariant: `start` returns only when the broker answers on 127.0.0.1, and starting twice starts one;
what runs is written to `broker.json` in its folder, so that another process can stop it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.kafka.topics import wait_until_ready

ASSETS = Path(__file__).parent
KAFKA_VERSION = "4.1.1"
IMAGE = f"apache/kafka:{KAFKA_VERSION}"
PULL_TIMEOUT_S = 300
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
ENGINES = ("docker", "java")
QUICK_JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # starts in half the time, runs slower
HOW_TO_GET_ONE = (
    "A Kafka broker needs a Docker engine that can have the image, or Java 17 and Maven "
    "(on Debian and Ubuntu: apt-get install openjdk-17-jre-headless maven)."
)


class BrokerUnavailable(Exception):
    """No broker can run here; the text says what each way lacked."""


@dataclass(frozen=True)
class Seat:
    """A node's place in its cluster: its number, counted from 1, and every node's controller port.

    Without ports it is a cluster of its own, which chooses one at every start.
    """

    number: int = 1
    controller_ports: tuple[int, ...] = ()
    cluster_id: str | None = None


@dataclass(frozen=True)
class Running:
    """What `broker.json` says: the engine, its handle (pid or container) and the port."""

    engine: str
    handle: str
    port: int


class KafkaBroker:
    """The broker whose data and logs are in `folder`; `bootstrap` is its address."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        engines: tuple[str, ...] = ENGINES,
        jars: Path | None = None,
        image: str = IMAGE,
        java_options: tuple[str, ...] = (),
        seat: Seat | None = None,
    ) -> None:
        self.java_options = java_options
        self.seat = seat or Seat()
        self.folder = folder.expanduser().absolute()
        self.port = port
        self.engines = engines
        self.jars = jars or self.folder / "libs"
        self.image = image
        self._process: subprocess.Popen[bytes] | None = None
        self.log_path = self.folder / "broker.log"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> Self:
        """Start the broker unless it runs; wait until it answers, unless others must start too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / "start.lock"):
            running = self._running()
            if running is not None and running.port != self.port:
                msg = (
                    f"a broker of {self.folder} already runs on port {running.port}; stop it first"
                )
                raise BrokerUnavailable(msg)
            if running is None:
                running = self._start_somehow()
            if wait:
                self._wait(running)
        return self

    def stop(self) -> bool:
        """Stop the broker, whoever started it; False when none ran. Its data stays."""
        running = self._running()
        if running is None:
            return False
        if running.engine == "docker":
            _quiet("docker", "stop", "--time", str(STOP_TIMEOUT_S), running.handle)
        else:
            _stop_process(int(running.handle))
        self._reap()
        return True

    def remove(self) -> bool:
        """Stop the broker and delete its data, also what a container keeps of it."""
        stopped = self.stop()
        known = self._known()
        if known is not None and known.engine == "docker":
            _quiet("docker", "rm", "--force", "--volumes", known.handle)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        (self.folder / "broker.json").unlink(missing_ok=True)
        return stopped

    def kill(self) -> None:
        """End a broker made of Java as a power cut would. For tests of faults."""
        running = self._running()
        if running is not None and running.engine == "java":
            os.kill(int(running.handle), signal.SIGKILL)
            _wait_for_end(int(running.handle), STOP_TIMEOUT_S)
            self._reap()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _known(self) -> Running | None:
        """What was started last, whether it runs or not."""
        try:
            return Running(**json.loads((self.folder / "broker.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _running(self) -> Running | None:
        known = self._known()
        if known is None:
            return None
        if known.engine == "docker":
            state = _quiet("docker", "inspect", "--format", "{{.State.Running}}", known.handle)
            return known if state.stdout.strip() == "true" else None
        if self._process is not None and self._process.poll() is None:
            return known  # a child of ours: its command line may not be there to read yet
        return known if _is_broker(int(known.handle), self.folder) else None

    def _start_somehow(self) -> Running:
        _refuse_taken(self.port)
        lacks = []
        for engine in self.engines:
            lack = prepare(engine, self.jars, self.image)
            if lack is not None:
                lacks.append(f"{engine}: {lack}")
                continue
            handle = self._start_container() if engine == "docker" else self._start_java()
            running = Running(engine, handle, self.port)
            (self.folder / "broker.json").write_text(json.dumps(running.__dict__))
            return running
        raise BrokerUnavailable("\n".join([HOW_TO_GET_ONE, *lacks]))

    def _start_container(self) -> str:
        """Run the image; the container keeps the data, and `docker start` finds it again."""
        name = f"daybook-kafka-{self.port}"
        if _quiet("docker", "start", name).returncode == 0:
            return name
        variables = {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": f"PLAINTEXT://:{self.port},CONTROLLER://:29093",
            "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{self.bootstrap}",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        }
        words = [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
        published = f"127.0.0.1:{self.port}:{self.port}"
        done = _quiet(
            "docker", "run", "--detach", "--name", name, "--publish", published, *words, self.image
        )
        if done.returncode != 0:
            raise BrokerUnavailable(f"docker run {self.image} failed: {done.stderr.strip()}")
        return name

    def _start_java(self) -> str:
        properties = self._write_properties()
        if not (self.folder / "data" / "meta.properties").exists():
            cluster_id = self.seat.cluster_id or new_cluster_id()
            words = ("format", "--cluster-id", cluster_id, "--config", str(properties))
            done = _quiet(*self._java("-Xmx128m"), "kafka.tools.StorageTool", *words)
            if done.returncode != 0:
                raise BrokerUnavailable(
                    f"the broker's folder cannot be made: {done.stdout}{done.stderr}"
                )
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java("-Xms256m", "-Xmx512m"), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        return str(self._process.pid)

    def _write_properties(self) -> Path:
        ports = self.seat.controller_ports or (free_port(),)
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(ports, 1))
        values = {
            "node": self.seat.number,
            "voters": voters,
            "port": self.port,
            "controller_port": ports[self.seat.number - 1],
            "data": self.folder / "data",
            "replicas": min(len(ports), 3),
            "in_sync": min(len(ports), 2),
        }
        text = (ASSETS / "server.properties").read_text()
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        properties = self.folder / "server.properties"
        properties.write_text(text)
        return properties

    def _java(self, *memory: str) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", *memory, *self.java_options, quiet, "-cp", f"{self.jars}/*"]

    def _wait(self, running: Running) -> None:
        """Wait for an answer, but not longer than the process lives."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not wait_until_ready(self.bootstrap, patience_s=2):
            if self._running() is None or time.monotonic() > deadline:
                tail = _tail(self.log_path) if running.engine == "java" else ""
                self.stop()
                raise BrokerUnavailable(f"the broker did not start on {self.bootstrap}\n{tail}")


def prepare(engine: str, jars: Path, image: str = IMAGE) -> str | None:
    """Fetch what the engine needs (image or jars), once; return what is lacking, or None."""
    return _prepare_docker(image) if engine == "docker" else _prepare_java(jars)


def new_cluster_id() -> str:
    """Make the id that a cluster's nodes are formatted with."""
    return base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def free_port() -> int:
    """A port of the loopback address that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _prepare_docker(image: str) -> str | None:
    if shutil.which("docker") is None:
        return "no docker command"
    try:
        if _quiet("docker", "info", timeout_s=10).returncode != 0:
            return "no engine answers"
        if _quiet("docker", "image", "inspect", image).returncode == 0:
            return None
        pulled = _quiet("docker", "pull", "--quiet", image, timeout_s=PULL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"the engine or the image {image} did not come in time"
    return None if pulled.returncode == 0 else f"{image} cannot be pulled"


def _prepare_java(jars: Path) -> str | None:
    if shutil.which("java") is None:
        return "no java command"
    jars.parent.mkdir(parents=True, exist_ok=True)
    with _locked(jars.parent / "jars.lock"):
        if (jars / f"kafka_2.13-{KAFKA_VERSION}.jar").exists():
            return None
        if shutil.which("mvn") is None:
            return "no mvn command, and the jars are not there yet"
        fresh = jars.with_name(jars.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        pom = jars.parent / "pom.xml"  # a copy, as Maven writes beside it
        pom.write_bytes((ASSETS / "pom.xml").read_bytes())
        words = ("dependency:copy-dependencies", f"-DoutputDirectory={fresh}")
        done = _quiet("mvn", "-q", "-B", "-f", str(pom), *words, timeout_s=PULL_TIMEOUT_S * 2)
        if done.returncode != 0:
            return f"mvn failed: {done.stdout[-600:].strip()}"
        shutil.rmtree(jars, ignore_errors=True)
        fresh.rename(jars)
    return None


def _quiet(*command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def _is_broker(pid: int, folder: Path) -> bool:
    """Whether that process is this folder's broker and not a later owner of its number."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.fsencode(folder / "server.properties") in words


def _stop_process(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    if not _wait_for_end(pid, STOP_TIMEOUT_S):
        os.kill(pid, signal.SIGKILL)
        _wait_for_end(pid, STOP_TIMEOUT_S)


def _wait_for_end(pid: int, patience_s: float) -> bool:
    """Wait for a process that may or may not be this one's child."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not Path(f"/proc/{pid}/cmdline").exists() or not _has_words(pid):
            return True
        time.sleep(0.05)
    return False


def _has_words(pid: int) -> bool:
    """An ended process that nobody has waited for has an empty command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            msg = (
                f"port {port} is taken by another program; choose one: make kafka KAFKA_PORT=19092"
            )
            raise BrokerUnavailable(msg) from error


def _tail(path: Path, lines: int = 15) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
