"""The image's HEALTHCHECK: exit 0 if this container's server may get requests. Standard library.

The port is read as the server reads it, as far as the environment sets it.
"""

import json
import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def main() -> int:
    port = _port()
    # Never through a proxy, even if http_proxy is set.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=TIMEOUT_S) as answer:
            print(answer.read(2000).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {error.read(2000).decode(errors='replace')}")
        return 1
    except OSError as error:
        print(f"no answer on port {port}: {error}")
        return 1
    return 0


def _port() -> str:
    """The environment over DEPLOYMENT_CONFIG_JSON over the default, as in the server."""
    try:
        config = json.loads(os.environ.get("DEPLOYMENT_CONFIG_JSON") or "{}")
    except ValueError:
        config = {}  # the server does not start with this
    below = {name.upper().replace("-", "_"): value for name, value in config.items()}
    for name in ("PORT", "HATHORA_DEFAULT_PORT"):
        if port := os.environ.get(name) or below.get(name):
            return str(port)
    return "8000"


if __name__ == "__main__":
    sys.exit(main())
