"Everything about the package is in settings.ini; this hands it to setuptools."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
cfg = config["DEFAULT"]
supported = ["3.10", "3.11", "3.12", "3.13"]

setup(
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"] + "/"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Natural Language :: English",
    ]
    + [f"Programming Language :: Python :: {v}" for v in supported],
    packages=find_packages(include=["cond_distill", "cond_distill.*"]),
    package_data={"cond_distill": ["assets/**/*"]},
    include_package_data=True,
    zip_safe=False,
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={
        "data": cfg["data_requirements"].split(),
        "site": cfg["site_requirements"].split(),
        "metrics": cfg["metrics_requirements"].split(),
        "dev": (cfg["dev_requirements"] + " " + cfg["data_requirements"]).split(),
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        # links from `names` in the pages to their documentation
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
)
