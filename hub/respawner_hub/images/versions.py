"""`images/versions.toml`: which images are built here, and from which releases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import tomllib
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import VersionsError

FILE_NAME = "versions.toml"

LAYERS = ("torch", "scientific", "jupyter", "tools", "devel")
"""Layers of wheels, bottom first. torch's stands in the table, the others' requirements in a file each."""


class Version(BaseModel):
    """One image's row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    torch: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    build: Literal["auto", "cpu", "cuda"] = "auto"
    cuda: str = Field("", pattern=r"^(\d+\.\d+)?$")
    python: Literal["3.11", "3.13"] = "3.11"
    layers: tuple[str, ...] = LAYERS[:3]
    pins: tuple[str, ...] = ()

    @field_validator("layers")
    @classmethod
    def _are_layers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != tuple(layer for layer in LAYERS if layer in value) or value[:1] != ("torch",):
            raise ValueError(f"must be torch and any of {', '.join(LAYERS[1:])}, in this order")
        if "jupyter" not in value:
            raise ValueError("jupyter cannot be left out: without it no session starts")
        return value

    @model_validator(mode="after")
    def _cuda_is_of_a_cuda_build(self) -> Version:
        if self.cuda and self.build == "cpu":
            raise ValueError(f'cuda = {self.cuda!r} in a CPU build: leave it out, or set build = "cuda"')
        return self

    @model_validator(mode="after")
    def _nvcc_is_of_a_cuda_that_has_it_as_a_wheel(self) -> Version:
        if "devel" in self.layers and (self.build != "cuda" or int(self.cuda.partition(".")[0] or 0) < 13):
            raise ValueError(
                f'the layer devel needs build = "cuda" and cuda = "13.0" or newer, and there is build = {self.build!r}, '
                f"cuda = {self.cuda!r}: the wheels of CUDA 12 have no nvcc"
            )
        return self


def read_versions(images: Path) -> dict[str, Version]:
    """Rows by the image's name, in the file's order; the first one is the default.

    :raises VersionsError: the file is missing or wrong; with the row, the key and what is expected.
    """
    file = images / FILE_NAME
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VersionsError(f"{file} is missing: is the checkout complete?") from error
    except tomllib.TOMLDecodeError as error:
        raise VersionsError(f"{file} cannot be read: {error}") from error
    rows = {}
    for name, table in tables.items():
        try:
            rows[name] = Version.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the table"
            raise VersionsError(f"{file}, [{name!r}], {key} = {first['input']!r}: {first['msg']}") from error
    if not rows:
        raise VersionsError(f'{file} names no image: every image is a table, as ["respawner/notebook:0.1.0"]')
    return rows


def version_of(images: Path, name: str) -> Version:
    """The row of that name.

    :raises VersionsError: there is none.
    """
    rows = read_versions(images)
    if name not in rows:
        raise VersionsError(
            f"{name} is not in {images / FILE_NAME}, which has {', '.join(rows)}. Add a table for it there, or correct the name."
        )
    return rows[name]


def slug(name: str) -> str:
    """An image's name as the name of a folder: "respawner-pytorch-cuda-2.7"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
