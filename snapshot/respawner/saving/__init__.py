"""From a captured state to a published snapshot, beside the kernel's work.

`job` is one state on its way to the disk, `saver` the thread that writes jobs in order, `arena` the memory
that lets the next cell begin while they are written, `hashing` the truth about what has changed.
"""
