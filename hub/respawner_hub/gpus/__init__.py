"""GPUs on the hub: who asks, who waits and why, who has idled too long; pages, API and command line."""
