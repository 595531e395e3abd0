"""The deployment: settings, JupyterHub's configuration, accounts, and the admin's command line."""

__version__ = "0.1.0"
