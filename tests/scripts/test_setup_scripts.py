"""The set-up scripts: what they say on a machine that lacks something, and that their helpers may be run twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import check_venv
import fix_ros_wheels
import pytest

_BUILD_MACHINE = ('  INTERFACE_INCLUDE_DIRECTORIES "/opt/python/cp311-cp311/include/python3.11;'
                  '/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"\n')
_TOOLS = ("awk", "bash", "cat", "cut", "df", "dirname", "du", "env", "find", "grep", "head", "id", "ls", "printf",
          "sed", "sha256sum", "sort", "tail")


def _run(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(root / "scripts" / "setup.sh"), *arguments], env={**os.environ, **environment},
                          capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(root: Path, tmp_path: Path) -> None:
    for tool in _TOOLS:
        (tmp_path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool} here"))
    result = _run(root, "--check", PATH=str(tmp_path))
    assert result.returncode == 3
    for word in ("C++ compiler", "make", "CMake", "sudo apt-get install", "g++"):
        assert word in result.stderr, word


def test_a_ros_that_python_can_not_import_is_named(root: Path, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    result = _run(root, "--check", ROS_DISTRO="nosuch", AMENT_PREFIX_PATH="/opt/ros/nosuch",
                  PATH=f"{tmp_path}:/usr/bin:/bin", PYTHONPATH="")
    assert result.returncode == 3
    assert "ROS 2 nosuch is sourced" in result.stderr
    assert "sudo apt-get install ros-nosuch-rclpy" in result.stderr


def test_a_sourced_ros_is_used(root: Path, tmp_path: Path) -> None:
    (tmp_path / "rclpy.py").touch()
    for name, text in (("python3", f'exec "{Path(sys.executable).resolve()}" "$@"'), ("colcon", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    result = _run(root, "--check", ROS_DISTRO="nosuch", AMENT_PREFIX_PATH="/opt/ros/nosuch",
                  PATH=f"{tmp_path}:/usr/local/bin:/usr/bin:/bin", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert f"ROS 2: nosuch, sourced; Python: {tmp_path}/python3" in result.stdout


def test_an_unknown_argument_is_named(root: Path) -> None:
    result = _run(root, "--chekc")
    assert result.returncode == 2
    assert "--chekc" in result.stderr


_PIP_FAILS = """
requirement_sets() { printf '%s\\n' household runtime; }
check_network() { return "${NETWORK:-0}"; }
pip_install() {
    case $* in *household.txt) echo 'No matching distribution found' >&2; return 1 ;; *) echo "got $*" ;; esac
}
ros=pip base_python=python3 gpu= gpu_packages=false
mkdir -p "$STAMPS"
install_python_packages
"""


@pytest.mark.parametrize("network", ["0", "1"])
def test_without_the_household_s_packages_all_else_is_set_up_and_it_is_said(root: Path, tmp_path: Path,
                                                                           network: str) -> None:
    shutil.copytree(root / "requirements", tmp_path / "requirements")
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts" / "gpu.sh", tmp_path / "scripts")
    whole = (root / "scripts" / "setup.sh").read_text(encoding="utf-8")
    functions, _, last = whole.rstrip().rpartition("\n")
    assert last == "main"
    script = tmp_path / "scripts" / "setup.sh"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script.write_text(f"{functions}\n{_PIP_FAILS}", encoding="utf-8")
        return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "NETWORK": network if "--household" in arguments else "0"})

    result = run("--household")
    assert "not installed: household (see above), so the tabletop takes its place" in result.stdout
    stamps = {path.name for path in (tmp_path / ".venv" / ".setup").glob("packages.*")}
    if network == "1":  # of which all else is told as ever
        assert "No matching distribution" not in result.stderr and result.returncode != 0 and not stamps
        return
    assert "No matching distribution" in result.stderr and result.returncode == 0
    assert stamps == {"packages.runtime"} and "got " in result.stdout
    assert run("--dev").returncode != 0, "whose tests need it"


def test_models_are_completed_wherever_the_checkout_is(root: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "o'neil's robots"
    for path, text in ((".venv/bin/python", '#!/bin/sh\nprintf "%s\\n" "$@"\n'), ("scripts/gpu.sh", ""),
                       ("models/mug/config.json", ' "base": {\n'), ("models/two words/config.json", ' "base": {\n'),
                       ("models/whole/config.json", "{}")):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(text, encoding="utf-8")
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    functions = (root / "scripts" / "setup.sh").read_text(encoding="utf-8").rstrip().removesuffix("main")
    (checkout / "scripts" / "setup.sh").write_text(f"{functions}\ncomplete_models\n", encoding="utf-8")

    def run() -> list[str]:
        result = subprocess.run(["bash", str(checkout / "scripts" / "setup.sh"), "--household"], capture_output=True,
                                text=True, timeout=60, check=True)
        assert not result.stderr
        return result.stdout.splitlines()

    folders = [str(checkout / "models" / name) for name in ("mug", "two words")]
    assert run() == ["-m", "ros_gpt4roi.model", "complete", *folders]
    for folder in folders:
        shutil.rmtree(folder)
    assert run() == []


@pytest.mark.parametrize(("arguments", "set_up"), [
    ("", "--household"), ("--voice --seed 7", "--household --speech"), ("--world household", "--household"),
    ("--world tabletop", ""), ("--stay --world=tabletop --voice", "--speech")])
def test_the_demo_sets_up_what_it_shows(root: Path, tmp_path: Path, arguments: str, set_up: str) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("demo.sh", "help.sh"):
        shutil.copy(root / "scripts" / name, tmp_path / "scripts")
    for name in ("scripts/setup.sh", "scripts/env.sh", "python"):
        (tmp_path / name).write_text(f"#!/bin/sh\n[ $# = 0 ] || echo {name} $*\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(["bash", str(tmp_path / "scripts" / "demo.sh"), *arguments.split()], capture_output=True,
                            text=True, timeout=60, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    expected = [f"scripts/setup.sh {set_up}"] * bool(set_up)
    assert result.stdout.splitlines()[-1].split() == ["python", "scripts/demo.py", *arguments.split()]
    assert [line for line in result.stdout.splitlines() if "setup.sh" in line] == expected


def test_env_without_a_set_up_says_what_to_run(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts" / "env.sh", tmp_path / "scripts")
    result = subprocess.run(["bash", "-c", ". scripts/env.sh"], cwd=tmp_path, capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 1
    assert "scripts/setup.sh" in result.stderr


def test_env_leaves_no_path_variable_with_an_empty_element(root: Path, tmp_path: Path) -> None:
    """An empty element is the current folder: what lies there would be loaded into every program."""
    for folder in ("scripts", ".venv/bin", "install"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(root / "scripts" / "env.sh", tmp_path / "scripts")
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    # As colcon's scripts do where the variable was not set.
    (tmp_path / "install" / "setup.bash").write_text(
        'export LD_LIBRARY_PATH="/ours/lib:${LD_LIBRARY_PATH:-}" PYTHONPATH="/ours/python:${PYTHONPATH:-}"\n',
        encoding="utf-8")
    names = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "CMAKE_PREFIX_PATH", "PKG_CONFIG_PATH")
    printed = " ".join(f'"{name}=${{{name}-unset}}"' for name in names)
    environment = {"PATH": ":/usr/bin::/bin:", "PYTHONPATH": "::/theirs", "CMAKE_PREFIX_PATH": ":"}
    result = subprocess.run(["/bin/bash", "-euc", f". scripts/env.sh; printf '%s\\n' {printed}"], cwd=tmp_path,
                            env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines() == [
        "PATH=/usr/bin:/bin", "LD_LIBRARY_PATH=/ours/lib", "PYTHONPATH=/ours/python:/theirs",
        "CMAKE_PREFIX_PATH=unset", "PKG_CONFIG_PATH=unset"]


def test_exports_are_rewritten_once(tmp_path: Path) -> None:
    export = tmp_path / "share" / "some_msgs" / "cmake" / "some_msgsExport.cmake"
    export.parent.mkdir(parents=True)
    export.write_text(_BUILD_MACHINE, encoding="utf-8")
    assert fix_ros_wheels.fix(tmp_path, "/here/python", "/here/numpy") == (1, 1)
    assert export.read_text(encoding="utf-8") == '  INTERFACE_INCLUDE_DIRECTORIES "/here/python;/here/numpy"\n'
    assert fix_ros_wheels.fix(tmp_path, "/here/python", "/here/numpy") == (1, 0)


def test_exports_of_this_environment_name_folders_that_exist() -> None:
    exports = list(Path(sys.prefix).glob("share/*/cmake/*rosidl_generator_pyExport.cmake"))
    if not exports:
        pytest.skip("ROS 2 is not from pip here: there are no wheels to mend")
    for export in exports:
        assert "/opt/python/" not in export.read_text(encoding="utf-8"), export


def test_what_pip_left_half_installed_is_found(tmp_path: Path) -> None:
    for name in ("whole-1.0.dist-info", "cut_short-2.0.dist-info", "~removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "METADATA").touch()
    (tmp_path / "whole-1.0.dist-info" / "INSTALLER").write_text("pip\n", encoding="utf-8")
    assert [path.name for path in check_venv.half_installed(tmp_path)] == ["cut_short-2.0.dist-info", "~removed"]


@pytest.mark.parametrize("name", ["demo", "retrain_demo"])
def test_help_sets_nothing_up(name: str, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(tmp_path.rglob("*"))
    result = subprocess.run([tmp_path / "scripts" / f"{name}.sh", "--help"], capture_output=True, text=True, timeout=60,
                            stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    assert f"scripts/{name}.sh" in result.stdout and sorted(tmp_path.rglob("*")) == before
