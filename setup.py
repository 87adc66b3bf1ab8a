"""The packages of the wheel; all else stands in pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

# The operators' sources travel in the wheel, as pilot/csrc, to be built where it is installed.
sources = [f"pilot.{name}" for name in find_namespace_packages(include=["csrc", "csrc.*"])]
setup(
    packages=[*find_packages(include=["pilot", "pilot.*", "stages", "stages.*"]), *sources],
    package_dir={"pilot.csrc": "csrc"},
)
