"""What pyproject.toml cannot say: packages are searched for, and one more lies elsewhere."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["certseg*"]), "certseg.configs"],
    package_dir={"certseg.configs": "configs"},
)
