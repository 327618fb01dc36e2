"""Packaging of QIN for FuxiCTR."""

from pathlib import Path

from setuptools import find_packages, setup

FETCH = ["pooch>=1.8"]
SERVE = [
    "fastapi>=0.115",
    "uvicorn>=0.54",
    "httptools>=0.6",
    "uvloop>=0.21; sys_platform != 'win32'",
    "prometheus-client>=0.21",
    "msgpack>=1.0.5",
    "ray[serve]>=2.60",  # replicas; qin-serve does not start it
]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "schemathesis>=4.30",
    "httpx>=0.27",
    "aiohttp>=3.9",
    *FETCH,
    *SERVE,
]
TENSORBOARD = ["tensorboard>=2.16"]
EXPORT = ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.19"]
TUNE = ["ray[tune]>=2.40", "optuna>=4", "plotly>=6", "rich>=13"]
DEV = [
    *TEST,
    *TENSORBOARD,
    *EXPORT,
    *TUNE,
    "import-linter>=2.1",
    "ruff>=0.6",
    "mypy>=1.11",
    "pandas-stubs",
    "types-PyYAML",
    "pre-commit",
    "psutil>=5.9",
]

setup(
    name="fuxictr-qin",
    version="0.1.0",
    description="Quadratic Interest Network for multimodal CTR prediction, as a FuxiCTR model",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["model_zoo", "model_zoo.*"]),
    package_data={"model_zoo.core.serving.network": ["page.html"]},
    python_requires=">=3.10",
    install_requires=[
        "fuxictr>=2.3.10",
        "torch>=2.7",
        "numpy>=1.26",
        "polars>=1.40.1,<2",
        "pyarrow>=15",
        "pydantic>=2.7",
        "pyyaml>=6.0.1",
        "scikit-learn>=1.5",
        "h5py>=3.10",
        "matplotlib>=3.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "fetch": FETCH,
        "tensorboard": TENSORBOARD,
        "export": EXPORT,
        "tune": TUNE,
        "serve": SERVE,
        "test": TEST,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "qin-data = model_zoo.core.commands.prepare:main",
            "qin-serve = model_zoo.core.commands.service:main",
        ]
    },
)
