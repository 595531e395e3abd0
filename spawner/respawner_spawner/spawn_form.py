"""The questions of the spawn page: which image, how many GPUs? None is asked where there is no choice."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import Any

from .leases.model import Device


def image_form(images: Sequence[str], preset: str) -> str:
    """HTML of the choice among the images that an admin allows; empty for one or none."""
    if len(images) < 2:
        return ""
    options = "".join(
        f"<option{' selected' if image == preset else ''}>{html.escape(image)}</option>" for image in images
    )
    return (
        '<label for="image" class="form-label">Image</label>'
        f'<select id="image" name="image" class="form-select mb-3">{options}</select>'
    )


def gpu_form(gpus: Sequence[Device], taken: Collection[str], maximum: int, preset: int) -> str:
    """HTML of the form's fields, empty when there is nothing to choose.

    :param taken: UUIDs that others hold.
    """
    if not gpus or not maximum:
        return ""
    free = sum(gpu.uuid not in taken for gpu in gpus)
    options = "".join(
        f'<option value="{count}"{" selected" if count == preset else ""}>{_label(count)}</option>'
        for count in range(min(maximum, len(gpus)) + 1)
    )
    rows = "".join(
        f"<li>{html.escape(gpu.model)}, {gpu.memory_bytes / (1 << 30):.0f} GiB: "
        f"{'in use' if gpu.uuid in taken else 'free'}</li>"
        for gpu in gpus
    )
    return (
        f'<label for="gpus" class="form-label">GPUs ({free} of {len(gpus)} free now)</label>'
        f'<select id="gpus" name="gpus" class="form-select">{options}</select><ul class="mt-2">{rows}</ul>'
    )


def options_from_form(form: dict[str, list[str]]) -> dict[str, Any]:
    """What `start` reads as `user_options`; it checks the number."""
    return {key: values[0] for key, values in form.items() if key in ("gpus", "image") and values}


def _label(count: int) -> str:
    return {0: "none, CPU only", 1: "1 GPU"}.get(count, f"{count} GPUs")
