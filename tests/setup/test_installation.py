"""Installed versions, compared with the lock and the declared requirements; and the doctor."""

import re
import tomllib

import pytest
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spikesep import doctor
from spikesep.cli.doctor import main as doctor_main

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = doctor.locked_versions(doctor.LOCK)


def declared(extra: str) -> list[Requirement]:
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return [Requirement(line) for line in lines if not line.startswith("spikesep")]


@pytest.mark.parametrize("extra", ["", "train", "slurm", "dev"])
def test_lock_satisfies_every_requirement(extra):
    for requirement in declared(extra):
        assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_lock_has_hashes_and_no_index():
    text = doctor.LOCK.read_text()
    pins = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text


def test_torch_packages_are_pinned_exactly():
    pins = {r.name: str(r.specifier) for r in declared("train")}
    assert {pins[name][:2] for name in ("torch", "torchaudio", "torchvision")} == {"=="}
    assert not any("*" in pins[name] for name in ("torch", "torchaudio", "torchvision"))


@pytest.mark.parametrize("extra", ["", "train", "dev"])
def test_every_requirement_excludes_the_next_major_version(extra):
    for requirement in declared(extra):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {"==", "<"} or requirement.name == "packaging", requirement


def test_unmet_requirements_are_listed(monkeypatch):
    requirements = [
        Requirement(line)
        for line in ("numpy<1", "no-such-package", "pesq<0; extra == 'train'", "scipy>=1")
    ]
    found = doctor.unmet(requirements)
    assert len(found) == 2
    assert re.fullmatch(r"numpy [\d.]+: <1 is needed", found[0])
    assert found[1] == "no-such-package: not installed"
    assert len(doctor.unmet(requirements, "train")) == 1


def test_lock_is_read_for_this_platform(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "numpy==1.0 \\\n    --hash=sha256:00\n    # via x\n"
        "pywin==3 ; sys_platform == 'no such system' \\\n    --hash=sha256:00\n"
        "no-such==2 ; python_full_version > '3' \\\n    --hash=sha256:00\n"
    )
    assert doctor.locked_versions(lock) == {"numpy": "1.0", "no-such": "2"}
    differences = doctor.lock_differences(lock)
    assert differences[0] == "no-such missing (locked: 2)"
    assert differences[1].startswith("numpy ")


def test_doctor_finds_nothing_broken_here(capsys):
    with pytest.raises(SystemExit) as stop:
        doctor_main([])
    printed = capsys.readouterr().out
    assert stop.value.code == 0, printed
    assert "separated one second" in printed
    assert "engines dense and event: the same" in printed


def test_failed_check_is_a_broken_finding_and_status_1(monkeypatch, capsys):
    monkeypatch.setitem(doctor.IMPORTS, "", ["no_such_module"])
    with pytest.raises(SystemExit) as stop:
        doctor_main([])
    assert stop.value.code == 1
    assert "broken  import no_such_module" in capsys.readouterr().out
