"""``%gpu``: which GPUs this session really has, what lies in them, and why CUDA does not work where it does not.

Reading order: `magic` → `look` (gathers `facts`) → `diagnosis` (pure) → `view`. Nothing here imports torch, and
nothing initialises CUDA: that would take some hundred MB of GPU memory and break every later ``fork``. NVML and
files say what can be known without; `probe` asks CUDA itself, in a process of its own, when a person wants it.
"""
