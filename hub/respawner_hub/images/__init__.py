"""What sessions run in: the user image and the kernel bundle. `make up` calls the two `ensure_…` functions.

Both are idempotent and quick when nothing changed. Not for choosing or pulling images at spawn time:
that is the spawner's.
"""

from ..steps import Say
from .build import ImageResult, ensure_image, is_ours
from .bundle import ensure_bundle
from .checkout import project_root
from .errors import (
    BuildError,
    BundleError,
    DiskTooSmallError,
    EngineUnreachableError,
    ImageError,
    NoBaseError,
    NoBuilderError,
    NotACheckoutError,
    OfferedError,
    VersionsError,
    WheelsError,
)

__all__ = [
    "BuildError",
    "BundleError",
    "DiskTooSmallError",
    "EngineUnreachableError",
    "ImageError",
    "ImageResult",
    "NoBaseError",
    "NoBuilderError",
    "NotACheckoutError",
    "OfferedError",
    "Say",
    "VersionsError",
    "WheelsError",
    "ensure_bundle",
    "ensure_image",
    "is_ours",
    "project_root",
]
