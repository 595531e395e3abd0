"""The store on disk: timelines of manifests, and packs of chunks. The format is in FORMAT.md.

Knows nothing of Python objects: it keeps byte streams, each chunk once a timeline, and publishes a
manifest when all of them are on disk.
"""
