"""The service on a Ray of this process's own, until its input ends; all of it on the loopback.

python -m tests.serving.network.ray_server '{"folded": ...}' '{"num_replicas": 2}'
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

ADDRESS = "127.0.0.1"


def main(arguments: dict[str, Any], options: dict[str, Any], grpc_port: int = 0) -> None:
    import ray
    from ray import serve

    from model_zoo.core.serving.network.ray_app import Arguments, Replica
    from tests.conftest import ROOT

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
