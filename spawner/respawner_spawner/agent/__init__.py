"""The process on a GPU host that serves what `devices` knows, and the client with which the hub asks it."""
