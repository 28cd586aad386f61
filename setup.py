"Package metadata, read from settings.ini (nbdev's stock setup.py needs pkg_resources, which setuptools dropped)."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here/"settings.ini")
cfg = ini["DEFAULT"]
readme = here/"README.md"

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"],
    long_description=readme.read_text() if readme.exists() else "", long_description_content_type="text/markdown",
    author=cfg["author"], license="MIT", python_requires=f">={cfg['min_python']},<3.14",
    packages=find_packages(include=["gpt_kit", "gpt_kit.*"]),
    package_data={"": ["*.js", "*.css", "*.html"]},
    install_requires=cfg["requirements"].split(),
    extras_require={e: cfg[f"{e}_requirements"].split() for e in ["dev", *cfg["extras"].split()]},
    entry_points={"console_scripts": [cfg["console_scripts"]], "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
