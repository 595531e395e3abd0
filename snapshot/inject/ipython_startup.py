# Mounted read-only into every session as IPython's system-wide startup file. IPython runs it in the user's
# namespace before the user's own startup files. A respawner that the user has installed comes first,
# because the bundle stands at the end of sys.path. Whatever fails here costs one line, never the kernel.
def _respawner_startup():
    import os
    import sys

    shell = get_ipython()  # noqa: F821 - IPython puts it into the namespace
    try:
        bundle = os.environ.get("RESPAWNER_BUNDLE", "/opt/respawner") + "/lib"
        if os.path.isdir(bundle) and bundle not in sys.path:  # noqa: PTH112 - imports as little as it can
            sys.path.append(bundle)
        from respawner.startup import activate

        activate(shell)
    except Exception as error:
        line = f"Respawner could not be switched on ({type(error).__name__}: {error}). The kernel works without it."

        def tell(info):
            # Now nobody would see it: what is printed before the first cell belongs to no cell.
            if info.store_history and not info.silent:
                shell.events.unregister("pre_run_cell", tell)
                print(line)  # noqa: T201

        shell.events.register("pre_run_cell", tell)


_respawner_startup()
del _respawner_startup
