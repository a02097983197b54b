"""Before anything is imported: prometheus_client chooses its backend at import."""

import os
import tempfile

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="test-metrics-")
