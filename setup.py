"""Build difflow from settings.ini, the one place where name, version and requirements are written."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
pythons = [f'Programming Language :: Python :: {v}' for v in ('3', '3.10', '3.11', '3.12', '3.13')]
place = f"{cfg['git_url']}/{{}}/{cfg['branch']}/"
read = (here / 'README.md').read_text(encoding='utf-8')  # its links are relative, which PyPI does not know
read = re.sub(r'(\]\(|src=")(?=assets/)', rf"\1{place.format('raw')}", read)
read = re.sub(r'(\]\(|href=")(?!\w+:)', rf"\1{place.format('blob')}", read)

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=read, long_description_content_type='text/markdown',
    project_urls={'Documentation': f"{cfg['doc_host']}{cfg['doc_baseurl']}/", 'Source': cfg['git_url'],
                  'Changelog': f"{place.format('blob')}CHANGELOG.md", 'Issues': f"{cfg['git_url']}/issues"},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', *pythons,
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    packages=find_packages(include=['difflow', 'difflow.*']),
    package_data={'difflow': ['**/*.pyi', 'py.typed', 'embedded/**/*', 'widgets/static/*']}, zip_safe=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in ('dev', 'hub', 'peers', 'docs')},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['difflow=difflow._modidx:d']},
)
