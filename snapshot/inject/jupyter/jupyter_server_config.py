# Found through JUPYTER_CONFIG_PATH, in addition to every other configuration. It comes last, so a plain
# assignment here would win over the user's own; hence nothing is assigned: the bundle is put at the end of
# the path, and one extension is added to whatever others are on. The extension looks before it sets.
import os
import sys

_bundle = os.environ.get("RESPAWNER_BUNDLE", "/opt/respawner") + "/lib"
if os.path.isdir(_bundle) and _bundle not in sys.path:  # noqa: PTH112
    sys.path.append(_bundle)

c = get_config()  # noqa: F821 - the configuration loader provides it
c.ServerApp.jpserver_extensions.update({"respawner.server_extension": True})
