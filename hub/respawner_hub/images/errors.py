"""Why an image or a bundle could not be made: one class for each thing that a person would do next."""


class ImageError(Exception):
    """Base class. The message says what failed, the last lines of its output, and the next step."""


class EngineUnreachableError(ImageError):
    """No Docker engine answers at the address."""


class NoBuilderError(ImageError):
    """No Docker client on this machine can build with BuildKit."""


class NoBaseError(ImageError):
    """The base image can neither be pulled nor made here."""


class WheelsError(ImageError):
    """pip could not resolve or download what goes into the image."""


class DiskTooSmallError(ImageError):
    """Too little room for the build, seen before it or in its middle."""


class BuildError(ImageError):
    """`docker build` ended with an error."""


class BundleError(ImageError):
    """A part of the kernel bundle is missing or is not pure Python."""


class VersionsError(ImageError):
    """`images/versions.toml` is wrong, or has no such image."""


class ImageTestError(ImageError):
    """An image cannot even be tested: it is not there, no container of it starts, or the engine does not answer."""


class NotACheckoutError(ImageError):
    """The folder that should hold the project does not. The message says where was looked."""


class OfferedError(ImageError):
    """The list of images that users may choose cannot be read or changed."""
