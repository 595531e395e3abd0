"""The question of the spawn page that needs no ledger: which image? Not asked where there is no choice."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .leases.asks import KEYS


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


def options_from_form(form: dict[str, list[str]]) -> dict[str, Any]:
    """Fields named like options become `user_options`; what they say about GPUs is checked when they are used."""
    return {key: values[0] for key, values in form.items() if key in (*KEYS, "image") and values}
