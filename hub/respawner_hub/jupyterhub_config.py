"""What `jupyterhub -f` reads: the settings turned into JupyterHub's configuration, then the escape hatch.

The settings file is named by RESPAWNER_SETTINGS; without it the defaults hold, relative to the current folder.
"""

from respawner_hub import settings
from respawner_hub.hub_config import configure

c = get_config()  # type: ignore[name-defined]  # noqa: F821  # given by traitlets
_settings = settings.load(settings.find_file())
configure(c, _settings)

for _file in sorted((_settings.folder / _settings.hub.config_dir).glob("*.py")):
    load_subconfig(str(_file))  # type: ignore[name-defined]  # noqa: F821  # given by traitlets
