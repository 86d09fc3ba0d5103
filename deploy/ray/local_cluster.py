"""A Ray cluster of one machine on 127.0.0.1, with the application of cpu.yaml, whose parts can be killed."""

from __future__ import annotations

import http.client
import os
import re
import secrets
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import yaml
from own_processes import free_ports, kill, named, start, wait_for

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REPLICA, PROXY = "ray::ServeReplica:answers:", "ray::ProxyActor"
PATIENCE_SECONDS = 300.0


class Broken(Exception):
    """A promise does not hold."""


class Cluster:
    """A Ray cluster of one machine with the application of cpu.yaml. `folder` is for its sockets and logs."""

    def __init__(self, ray_bin: Path, folder: Path) -> None:
        self._bin, self._folder = ray_bin, folder
        self._gcs, self.port, client, agent = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._environment = {
            "PATH": f"{ray_bin}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "NO_PROXY": "127.0.0.1",
            "RAY_ADDRESS": f"127.0.0.1:{self._gcs}",
            "RAY_AUTH_MODE": "token",  # other programs of this machine cannot use the cluster
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else whatever else this machine does comes before the replicas
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: Ray listens on 127.0.0.1 alone
        }
        ports = f"--port {self._gcs} --ray-client-server-port {client} --dashboard-agent-listen-port {agent}"
        quiet = "--include-dashboard false --include-log-monitor false --disable-usage-stats"
        size = "--num-cpus 2 --object-store-memory 80000000 --min-worker-port 0 --max-worker-port 0"
        options = f"--head --block --node-ip-address 127.0.0.1 {ports} {quiet} {size} --temp-dir".split()
        head = [f"{ray_bin}/ray", "start", *options, str(folder)]
        log = folder / "ray-start.log"
        start(head, {**self._environment, "RAY_ADDRESS": ""}, log)
        wait_for("Ray starts", lambda: "Ray runtime started" in log.read_text("utf-8"), PATIENCE_SECONDS)

    def deploy(self, replicas: int) -> float:
        """Bring the application to so many replicas, as `serve run` does. Returns the seconds until they answer."""
        config = yaml.safe_load((HERE / "cpu.yaml").read_text("utf-8"))
        config["http_options"]["port"] = self.port
        config["applications"][0]["deployments"][0]["num_replicas"] = replicas
        path = self._folder / f"cpu-{replicas}.yaml"
        path.write_text(yaml.safe_dump(config), "utf-8")
        begin = time.monotonic()
        command = [f"{self._bin}/serve", "run", "--non-blocking", str(path)]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, cwd=REPOSITORY, check=False
        )
        if done.returncode:
            raise Broken(f"serve run failed:\n{done.stdout}{done.stderr}")
        wait_for("replicas", lambda: len(self.replicas()) == replicas and self.answers(), PATIENCE_SECONDS)
        return time.monotonic() - begin

    def replicas(self) -> list[int]:
        """Return the processes of the replicas that have started and live."""
        started = re.findall(r"started successfully .*\(PID: (\d+)\)", self._logs("controller_*.log"))
        return [process for process in named(REPLICA) if str(process) in started]

    def answers(self) -> bool:
        """Return whether the proxy passes a call on to a replica."""
        try:
            urllib.request.urlopen(f"{self.url}/models", timeout=10).close()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def written(self) -> int:
        """Return how many answers the replicas have written, those included that nobody received."""
        return self._logs("replica_*.log").count("POST /v1/chat/completions 200")

    def refused(self) -> int:
        """Return how many calls the proxy has answered with 5xx, because their replica had died."""
        return len(re.findall(r"POST /v1/chat/completions 5\d\d", self._logs("proxy_*.log")))

    def _logs(self, names: str) -> str:
        paths = (self._folder / "session_latest" / "logs" / "serve").glob(names)
        return "".join(path.read_text("utf-8", "replace") for path in paths)


def kill_replica(cluster: Cluster) -> Callable[[], object]:
    """Kill one replica. Returns a function that waits for its successor."""
    old = cluster.replicas()
    kill(old[0])
    return lambda: wait_for(
        "a new replica", lambda: len(set(cluster.replicas()) - {old[0]}) == len(old), PATIENCE_SECONDS
    )


def kill_proxy(cluster: Cluster) -> Callable[[], object]:
    """Kill Ray's proxy. Returns a function that waits for its successor."""
    (old,) = named(PROXY)
    kill(old)
    return lambda: wait_for(
        "a new proxy", lambda: named(PROXY) not in ([], [old]) and cluster.answers(), PATIENCE_SECONDS
    )
