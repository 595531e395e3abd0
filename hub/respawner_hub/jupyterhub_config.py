"""What `python -m respawner_hub.app -f` reads: the settings turned into JupyterHub's configuration, then the escape hatch.

The settings file is named by RESPAWNER_SETTINGS; without it the defaults hold, relative to the current folder.
"""

from respawner_hub import settings
from respawner_hub.hub_config import add_services, configure

c = get_config()  # type: ignore[name-defined]  # noqa: F821  # given by traitlets
_file = settings.find_file()
_settings = settings.load(_file)
configure(c, _settings)

for _hatch in sorted((_settings.folder / _settings.hub.config_dir).glob("*.py")):
    load_subconfig(str(_hatch))  # type: ignore[name-defined]  # noqa: F821  # given by traitlets

add_services(c, _settings, _file)
