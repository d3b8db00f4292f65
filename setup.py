"Everything about the package is in settings.ini; this hands it to setuptools."

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
supported = ["3.10", "3.11", "3.12", "3.13"]
code = f"{cfg['git_url']}/blob/{cfg['branch']}/"
pictures = code.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
# what the pages read: project_file (in utils) finds it in a clone and in the wheel
PAGES_READ = ("results", "configs", "benchmarks")


def absolute(text):
    """The README with links and pictures that also work away from the repository."""

    def link(m):
        picture = re.search(r"\.(png|jpe?g|svg|gif)$", m[2])
        return m[1] + (pictures if picture else code) + m[2]

    return re.sub(r"""(\]\(|(?:src|href|srcset)=")(?![a-z]+:|#|/)([^)\s"]+)""", link, text)


class BuildWithPages(build_py):
    """The package, with the tables and configurations that its pages read."""

    def run(self):
        """Copy them into the build; an editable install finds them in the clone."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for name in PAGES_READ:
            target = Path(self.build_lib, "cond_distill", "project", name)
            shutil.copytree(ROOT / name, target, dirs_exist_ok=True)


def extras():
    """The optional requirements: each `*_requirements` of settings.ini, and what joins them."""
    names = [key[: -len("_requirements")] for key in cfg if key.endswith("_requirements")]
    own = {name: cfg[f"{name}_requirements"].split() for name in names}
    own["notebooks"] += own["data"]
    own["dev"] += own["notebooks"]
    return own


setup(
    version=cfg["version"],
    description=cfg["description"],
    long_description=absolute((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"] + "/",
        "Source": cfg["git_url"],
        "Issues": cfg["git_url"] + "/issues",
        "Changelog": code + "CHANGELOG.md",
        "Paper": "https://arxiv.org/abs/2310.01407",
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: OS Independent",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ]
    + [f"Programming Language :: Python :: {v}" for v in ["3", *supported]],
    packages=find_packages(include=["cond_distill", "cond_distill.*"]),
    package_data={"cond_distill": ["assets/**/*", "py.typed"]},
    include_package_data=False,
    zip_safe=False,
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=extras(),
    cmdclass={"build_py": BuildWithPages},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        # links from `names` in the pages to their documentation
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
)
