"""The cluster's tests take longer than the rest together: `make test-cluster` runs them, `make test` does not."""

import os

collect_ignore_glob = [] if os.environ.get("RESPAWNER_CLUSTER") else ["test_*.py"]
