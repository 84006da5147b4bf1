"""Checks of an installation: versions, processor, engines, codecs, and one second of separation.

Each check yields findings. A broken one names its remedy.
"""

import importlib
import os
import platform
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spikesep.provenance import available_cores, processor_name

LOCK = Path(__file__).parent.parent / "requirements.lock"
"""The locked versions, which exist in a checkout only."""
EXTRAS = {
    "train": ("asteroid", "recipes and scoring"),
    "export": ("onnx", "ONNX files"),
    "nir": ("nir", "NIR files"),
    "slurm": ("submitit", "jobs on a cluster"),
    "bench": ("snntorch", "benchmarks"),
}
"""A package that only this extra installs, and the purpose of the extra."""
IMPORTS = {
    "": ["torch", "numpy", "scipy", "numba", "soundfile", "av", "safetensors", "huggingface_hub"],
    "train": [
        "torchaudio", "torchvision", "asteroid", "pytorch_lightning", "torchmetrics", "pesq",
        "pystoi", "librosa", "matplotlib", "pyloudnorm",
    ],
}  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: `ok`, `note` (works, but worth knowing) or `broken`.
        what: the finding, with a remedy if it is broken.
    """

    status: str
    what: str


def run_checks() -> Iterator[Finding]:
    """Run all checks in order; yield each finding as it is made."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _requirements, _lock, _imports, _processor, _accelerator, _codecs, _browser,
        _engines, _separation,
    ]  # fmt: skip
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding("broken", f"{check.__name__.strip('_')}: {reason[:300]}")


def _python() -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info < (3, 14)
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding(
        "ok" if supported else "note",
        system if supported else f"{system}: tested with Python 3.11 to 3.13 only",
    )


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _requirements() -> Iterator[Finding]:
    """Compare installed versions with the requirements of the package."""
    declared = [Requirement(line) for line in requires("spikesep") or []]
    faults = {extra: unmet(declared, extra) for extra in ("", *EXTRAS)}
    if not faults[""]:
        yield Finding("ok", "versions of the core: as declared")
    for fault in faults[""]:
        yield Finding("broken", f"{fault}; run: pip install --upgrade spikesep")
    for extra, (package, purpose) in EXTRAS.items():
        remedy = f"pip install 'spikesep[{extra}]'"
        if not faults[extra]:
            yield Finding("ok", f"extra {extra} ({purpose}): installed")
        elif installed_version(package) is None:
            yield Finding("note", f"extra {extra} ({purpose}): not installed; {remedy}")
        else:
            yield from (Finding("broken", f"{fault}; run: {remedy}") for fault in faults[extra])


def unmet(requirements: list[Requirement], extra: str = "") -> list[str]:
    """List the requirements of an extra (or of the core) that the environment does not meet."""
    faults = []
    for requirement in requirements:
        marker = requirement.marker
        in_core = marker is None or marker.evaluate({"extra": ""})
        in_extra = marker is not None and marker.evaluate({"extra": extra})
        if in_core == bool(extra) or not (in_core or in_extra):
            continue
        found = installed_version(requirement.name)
        if found is None:
            faults.append(f"{requirement.name}: not installed")
        elif not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{requirement.name} {found}: {requirement.specifier} is needed")
    return faults


def locked_versions(lock: Path) -> dict[str, str]:
    """Return the versions that a lock pins for this platform and Python, by canonical name."""
    pins = re.findall(r"^([A-Za-z0-9._-]+==[^\\\n]+)", lock.read_text(encoding="utf-8"), re.M)
    found = {}
    for pin in map(Requirement, pins):
        if pin.marker is None or pin.marker.evaluate():
            found[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    return found


def lock_differences(lock: Path) -> list[str]:
    """List the packages whose installed version is not the locked one."""
    return [
        f"{name} {found or 'missing'} (locked: {wanted})"
        for name, wanted in sorted(locked_versions(lock).items())
        if (found := installed_version(name)) is None or found.partition("+")[0] != wanted
    ]


def _lock() -> Iterator[Finding]:
    if not LOCK.is_file():
        yield Finding("note", "no requirements.lock: not a checkout, versions are not locked")
        return
    differences = lock_differences(LOCK)
    if not differences:
        yield Finding("ok", "versions: exactly those of requirements.lock")
        return
    shown = ", ".join(differences[:5]) + (", ..." if len(differences) > 5 else "")
    yield Finding(
        "note", f"{len(differences)} versions differ from the lock: {shown}; make install"
    )


def _imports() -> Iterator[Finding]:
    extras = [extra for extra in IMPORTS if not extra or installed_version(EXTRAS[extra][0])]
    for name in (name for extra in extras for name in IMPORTS[extra]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries warn about each other
                importlib.import_module(name)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            yield Finding("broken", f"import {name}: {reason}; reinstall with: make install")


def _processor() -> Iterator[Finding]:
    import torch

    from spikesep.spiking.engines import event_lists, int8_products
    from spikesep.training.precision import supports_bf16

    yield Finding("ok", f"{processor_name()}, {available_cores()} cores, {_memory()}")
    products = int8_products.instruction_set()
    switches = {
        "bf16 (trains in bf16; otherwise in float32)": supports_bf16(torch.device("cpu")),
        "VNNI (dense engine; otherwise AVX2 or, without it, float32)": products == "vnni",
        "AVX2 (dense engine)": products != "",
        "AVX-512 VBMI2 (lists of spikes by 32; otherwise by 8)": event_lists.COMPRESSES,
    }
    for name, present in switches.items():
        yield Finding("ok", f"{'has' if present else 'lacks'} {name}")


def _memory() -> str:
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{n_bytes / 2**30:.0f} GiB of memory"


def _accelerator() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", "no CUDA accelerator: everything runs on the CPU")
        return
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    yield Finding("ok", f"accelerators: {', '.join(names)}")
    if find_spec("triton") is None:
        yield Finding("note", "triton is not installed: the gpu engine is not available")


def _codecs() -> Iterator[Finding]:
    import av
    import soundfile

    formats = soundfile.available_formats()
    missing = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name not in formats]
    if missing:
        remedy = "pip install --upgrade soundfile"
        yield Finding("note", f"libsndfile lacks {', '.join(missing)}: FFmpeg reads them; {remedy}")
    lacking = [
        name for name in ("aac", "opus", "amrnb", "wmav2") if name not in av.codecs_available
    ]
    what = f"codecs: libsndfile {soundfile.__libsndfile_version__}, PyAV {av.__version__}"
    yield Finding(
        "note" if lacking else "ok", what + (f" without {', '.join(lacking)}" * bool(lacking))
    )


def _browser() -> Iterator[Finding]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = "no Chromium: tests of the pages are skipped; Debian: apt-get install chromium"
    yield Finding("ok" if found else "note", f"browser for tests: {found}" if found else missing)


def _engines() -> Iterator[Finding]:
    """Run the shipped network on both CPU engines and compare the potentials bit by bit."""
    import torch

    from spikesep.separation.inference.in_memory import load_model

    separator = load_model().separator
    features = torch.randn(
        1, separator.config.n_filters, 64, generator=torch.Generator().manual_seed(0)
    )
    outputs = {}
    for engine in ("dense", "event"):
        separator.network.use_engine(engine)
        with torch.inference_mode():
            outputs[engine] = separator.network(features)
    if torch.equal(outputs["dense"], outputs["event"]):
        yield Finding("ok", "engines dense and event: the same potentials, bit by bit")
    else:
        yield Finding("broken", "engines dense and event differ; report this with the lines above")


def _separation() -> Iterator[Finding]:
    import numpy as np

    from spikesep.separation.inference.in_memory import load_model

    model, rng = load_model(), np.random.default_rng(0)
    wave = rng.normal(0, 0.05, model.sample_rate).astype(np.float32)
    begun = time.perf_counter()
    voices = model.separate(wave, model.sample_rate)
    seconds = time.perf_counter() - begun
    if len(voices) < 2 or not np.isfinite(np.asarray(voices)).all():
        yield Finding("broken", "separating one second of noise returned no voices; report this")
        return
    yield Finding("ok", f"separated one second of sound in {seconds:.2f} s with the shipped model")
