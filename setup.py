"""Copy the configuration files and dataset scripts, which are beside the package, into the package of a wheel."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RESOURCES = ("configs/**/*.yaml", "configs/cluster/*", "data/**/*.py", "data/README.md")


class BuildWithResources(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in (path for pattern in RESOURCES for path in sorted(Path().glob(pattern))):
            target = Path(self.build_lib, "vatt", path)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithResources})
