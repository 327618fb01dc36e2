"""The service on a Ray of this process's own, until its input ends; all of it on the loopback.

python -m tests.serving.network.ray_server '{"folded": ...}' '{"num_replicas": 2}'
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.serving.network.conftest import TOKEN

ADDRESS = "127.0.0.1"


@contextmanager
def ray_serving(
    folded: Path, options: dict[str, Any], **arguments: Any
) -> Iterator[tuple[str, int]]:
    """The service on a Ray of its own; gives its address and its first process."""
    token = folded.with_name("token")
    token.write_text(TOKEN)
    token.chmod(0o600)
    asked = {"folded": str(folded), "token_file": str(token), **arguments}
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-m", "tests.serving.network.ray_server"]
    with subprocess.Popen(
        [*command, json.dumps(asked), json.dumps(options)],
        env={**os.environ, **auth, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("at "):
                    break
            else:
                raise AssertionError("".join(said))
            yield line.split()[1], process.pid
        finally:
            process.communicate("")


def main(arguments: dict[str, Any], options: dict[str, Any], grpc_port: int = 0) -> None:
    import ray
    from ray import serve

    from model_zoo.core.serving.network.ray_app import Arguments, Replica

    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local",
        _node_ip_address=ADDRESS,
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )
    functions = "model_zoo.core.serving.network.ray_app.add_scores_to_server"
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": ADDRESS, "port": port},
        # Ray's proxy listens for gRPC on all interfaces; 0 is not at all.
        grpc_options={"port": grpc_port, "grpc_servicer_functions": [functions]},
    )
    replica = Replica.options(**options) if options else Replica
    serve.run(replica.bind(Arguments.model_validate(arguments)))
    print(f"at http://{ADDRESS}:{port}", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
