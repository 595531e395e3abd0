"""The stable names that the parts of Respawner share.

The kernel component, the spawner, the kernel bundle and the images agree on what stands here and on
nothing else. Standard library only: the hub imports this module, and so does every kernel.
"""

# Environment of a session -------------------------------------------------------------------------

SWITCH_ENV = "RESPAWNER"
"""``off`` keeps the kernel component from doing anything."""

STORE_ENV = "RESPAWNER_STORE"
"""Folder of the snapshot store; without it the user's data folder is used."""

TIMELINE_ENV = "RESPAWNER_TIMELINE"
"""Name of the timeline, where it shall not be the notebook's."""

SESSION_NAME_ENV = "JPY_SESSION_NAME"
"""Set by Jupyter Server in every kernel: the path of the notebook."""

RESTORE_ENV = "RESPAWNER_RESTORE"
"""When a starting kernel restores: ``always`` (the default), ``crash`` (not after a user's restart), ``ask``, ``never``."""

OBJECT_SECONDS_ENV = "RESPAWNER_OBJECT_SECONDS"
"""The most that one object's own code (``__reduce__``, ``__getstate__``) may take at a save, in seconds (5);
six times that at a restore. 0: no limit."""

MOST_OBJECT_BYTES_ENV = "RESPAWNER_MOST_OBJECT_BYTES"
"""The most that what one such object returns may hold (default: a quarter of the free memory)."""

OWNER_ENV = "RESPAWNER_OWNER_PID"
"""Set by the kernel for its children: ``pid:start:timeline`` of the kernel that owns the timeline."""

BUNDLE_ENV = "RESPAWNER_BUNDLE"
"""Folder of the kernel bundle, where it is not `BUNDLE_DIR`."""

RUNTIME_ENV = "RESPAWNER_RUNTIME"
"""Folder in which running kernels say how far they are saved; without it one under the temporary folder."""

KEEP_LATEST_ENV = "RESPAWNER_KEEP_LATEST"
"""How many of a notebook's newest snapshots stay (20)."""

KEEP_HOURLY_ENV = "RESPAWNER_KEEP_HOURLY"
"""For how many hours the newest snapshot of each hour stays (24)."""

KEEP_DAILY_ENV = "RESPAWNER_KEEP_DAILY"
"""For how many days the newest snapshot of each day stays (14)."""

TIMELINE_QUOTA_ENV = "RESPAWNER_TIMELINE_QUOTA"
"""Bytes that one notebook's snapshots may take, as ``50GB``; labelled, pinned and the latest stay regardless."""

STORE_QUOTA_ENV = "RESPAWNER_STORE_QUOTA"
"""Bytes that the whole store may take (``200GB``)."""

WRITES_ENV = "RESPAWNER_WRITES_PER_DAY"
"""Bytes that the kernels of a store may write in 24 hours (``2TB``); beyond half of it large states wait."""

SAFEPOINT_SHARE_ENV = "RESPAWNER_SAFEPOINT_SHARE"
"""The part of a running cell's time that snapshots inside it may hold it up (0.01); 0: none are taken."""

SAFEPOINT_SECONDS_ENV = "RESPAWNER_SAFEPOINT_SECONDS"
"""The least time between two snapshots inside a cell, and before the first (30)."""

KEEP_SAFEPOINTS_ENV = "RESPAWNER_KEEP_SAFEPOINTS"
"""How many of the newest snapshots inside a cell stay, for as long as there is none after its end (3)."""

MEMORY_ALERT_ENV = "RESPAWNER_MEMORY_ALERT"
"""The part of the container's memory from which on a running cell is saved early and warned (0.9); 0: never."""

FENCE_ENV = "RESPAWNER_FENCE"
"""Number of the session's hold on its GPUs; grows with every grant of the deployment."""

FENCE_FILE_ENV = "RESPAWNER_FENCE_FILE"
"""File with the newest such number of this server. Where it is greater than the session's own, nothing is published."""

GPU_SHARE_ENV = "RESPAWNER_GPU_SHARE"
"""In a session with a part of a GPU's memory: what holds it to that; ``advisory`` where nothing does."""

GPU_MEMORY_BYTES_ENV = "RESPAWNER_GPU_MEMORY_BYTES"
"""Size of that part."""

GPU_MEMORY_FRACTION_ENV = "RESPAWNER_GPU_MEMORY_FRACTION"
"""The same as a part of the whole GPU, 0 to 1, where its size is known."""

NO_GPU = "void"
"""``NVIDIA_VISIBLE_DEVICES`` of a session without GPUs: otherwise CUDA images ask for all of them."""

# Places inside a container --------------------------------------------------------------------------

BUNDLE_DIR = "/opt/respawner"
"""The kernel bundle, mounted read-only: ``lib/`` (Python packages) and ``jupyter/`` (configuration)."""

STARTUP_FILE = "/etc/ipython/startup/00-respawner.py"
"""IPython's system-wide startup hook, mounted read-only."""

STATE_DIR = "/var/lib/respawner"
"""The user's snapshot volume."""

STORE_DIR = STATE_DIR + "/store"

FENCE_FILE = STATE_DIR + "/fence"
"""`FENCE_FILE_ENV` of the user's default server; a named server's is ``fence-NAME``: they share the volume."""

RUNTIME_DIR = "/tmp/respawner"  # noqa: S108  # a container has one user, who makes it
"""Where the session's kernels say how far they are saved; gone with the container."""

# Command line used from outside the kernel -----------------------------------------------------------

FLUSH_MODULE = "respawner.flush"
"""``python3 -m respawner.flush --timeout SECONDS`` waits until every kernel of the session is durable.

Standard library only. Prints one JSON object ``{"durable": bool, "kernels": [...]}`` and exits with
`FLUSH_DURABLE` or `FLUSH_NOT_DURABLE`.
"""
FLUSH_DURABLE = 0
FLUSH_NOT_DURABLE = 3
