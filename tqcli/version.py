"""The installed version."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tqcli")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"
