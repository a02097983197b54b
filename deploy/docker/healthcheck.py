"""The image's HEALTHCHECK: exit 0 if this container's server may get requests. Standard library.

The port is looked for where the server has it from, as far as that is the environment.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def main() -> int:
    port = os.environ.get("PORT") or os.environ.get("HATHORA_DEFAULT_PORT") or "8000"
    # Never through a proxy, whatever http_proxy says.
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


if __name__ == "__main__":
    sys.exit(main())
