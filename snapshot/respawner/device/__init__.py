"""Tensors on accelerators: what of them has changed, the way of their bytes, and which device they come back to.

`hardware` asks torch, `recording` keeps out of CUDA graphs, `placement` decides (pure), `digests` finds changes on the device itself, `ring` is the bounded
memory through which bytes cross, `lane` has one of each for a device, `known` remembers what the store has of it, and
`remembered` what came back on the CPU for want of a device. Everything but `placement`, `hardware` and `recording` needs torch, which
is never imported for this: a notebook without torch has no device.
"""
