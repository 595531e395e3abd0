"""The spawner: one container a user, GPUs leased by UUID, sessions that outlive the hub.

`GPUDockerSpawner` is registered with JupyterHub as the spawner ``respawner``.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # JupyterHub is imported when the class is asked for, not by `import respawner_spawner.devices`.
    if name == "GPUDockerSpawner":
        from .spawner import GPUDockerSpawner

        return GPUDockerSpawner
    raise AttributeError(name)
