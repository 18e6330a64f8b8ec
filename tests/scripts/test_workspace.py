"""What the colcon workspace holds once built: packages, executables, interfaces; a ROS domain is used by one only."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from isolation import claim_domain

from ros_gpt4roi import paths

pytest.importorskip("rclpy", reason="no ROS 2 here: run through scripts/test.sh")

from ament_index_python.packages import get_package_prefix  # noqa: E402

# Fields of Jazzy's vision_msgs 4.1.1, as its messages list them.
_VISION_MSGS = {
    "BoundingBox2D": {"center": "vision_msgs/Pose2D", "size_x": "double", "size_y": "double"},
    "BoundingBox2DArray": {"header": "std_msgs/Header", "boxes": "sequence<vision_msgs/BoundingBox2D>"},
    "BoundingBox3D": {"center": "geometry_msgs/Pose", "size": "geometry_msgs/Vector3"},
    "BoundingBox3DArray": {"header": "std_msgs/Header", "boxes": "sequence<vision_msgs/BoundingBox3D>"},
    "Classification": {"header": "std_msgs/Header", "results": "sequence<vision_msgs/ObjectHypothesis>"},
    "Detection2D": {"header": "std_msgs/Header", "results": "sequence<vision_msgs/ObjectHypothesisWithPose>",
                    "bbox": "vision_msgs/BoundingBox2D", "id": "string"},
    "Detection2DArray": {"header": "std_msgs/Header", "detections": "sequence<vision_msgs/Detection2D>"},
    "Detection3D": {"header": "std_msgs/Header", "results": "sequence<vision_msgs/ObjectHypothesisWithPose>",
                    "bbox": "vision_msgs/BoundingBox3D", "id": "string"},
    "Detection3DArray": {"header": "std_msgs/Header", "detections": "sequence<vision_msgs/Detection3D>"},
    "LabelInfo": {"header": "std_msgs/Header", "class_map": "sequence<vision_msgs/VisionClass>", "threshold": "float"},
    "ObjectHypothesis": {"class_id": "string", "score": "double"},
    "ObjectHypothesisWithPose": {"hypothesis": "vision_msgs/ObjectHypothesis",
                                 "pose": "geometry_msgs/PoseWithCovariance"},
    "Point2D": {"x": "double", "y": "double"},
    "Pose2D": {"position": "vision_msgs/Point2D", "theta": "double"},
    "VisionClass": {"class_id": "uint16", "class_name": "string"},
    "VisionInfo": {"header": "std_msgs/Header", "method": "string", "database_location": "string",
                   "database_version": "int32"},
}


@pytest.mark.parametrize("name", sorted(_VISION_MSGS))
def test_vision_msgs_has_the_fields_of_the_distribution(name: str) -> None:
    import vision_msgs.msg

    assert getattr(vision_msgs.msg, name).get_fields_and_field_types() == _VISION_MSGS[name]


@pytest.mark.parametrize("name", ["perception", "sim_camera"])
def test_ros2_run_finds_an_executable_for_this_python(name: str) -> None:
    path = Path(get_package_prefix("ros_gpt4roi")) / "lib" / "ros_gpt4roi" / name
    assert os.access(path, os.X_OK)
    shebang = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!")
    prefix = subprocess.run([shebang, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True,
                            timeout=60)
    assert prefix.stdout.strip() == sys.prefix


def test_all_packages_have_one_version(root: Path) -> None:
    manifests = [root / "package.xml", root / "interfaces" / "ros_gpt4roi_interfaces" / "package.xml"]
    versions = {ElementTree.parse(path).getroot().findtext("version") for path in manifests}
    setup = subprocess.run([sys.executable, "setup.py", "--version"], cwd=root, capture_output=True, text=True,
                           timeout=60)
    versions.add(setup.stdout.strip().splitlines()[-1])
    assert len(versions) == 1


def described(folder: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> dict[str, Any]:
    """What setup.py says of the package in a folder."""
    said: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    monkeypatch.setattr("setuptools.setup", lambda **arguments: said.update(arguments))
    runpy.run_path(str(root / "setup.py"))
    return said


def test_every_pattern_of_package_data_matches_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, patterns in described(root, monkeypatch, root)["package_data"].items():
        for pattern in patterns:
            assert list((root / package).glob(pattern)), f"{package}: {pattern}"


def test_the_models_that_are_there_are_installed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "share/ros_gpt4roi/models/household"
    here = dict(described(root, monkeypatch, root)["data_files"])
    weights = {path.parent.name for path in (root / "models").glob("*/model.safetensors")}
    assert weights and all(f"models/{name}/model.safetensors" in here[f"share/ros_gpt4roi/models/{name}"]
                           for name in weights)
    assert folder not in dict(described(tmp_path, monkeypatch, root)["data_files"])
    (tmp_path / "models" / "household" / "probes").mkdir(parents=True)
    for name in ("config.json", "README.md", "probes/0.jpg"):
        (tmp_path / "models" / "household" / name).touch()
    there = dict(described(tmp_path, monkeypatch, root)["data_files"])
    assert there[folder] == ["models/household/config.json"]
    assert there[f"{folder}/probes"] == ["models/household/probes/0.jpg"]


def _ros_imports(*folders: Path) -> set[str]:
    """Names of the ROS packages that Python files import."""
    known = {"ament_index_python", "cv_bridge", "launch", "launch_ros", "rclpy"}
    imported = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
    return {name for name in imported if name in known or name.endswith(("_msgs", "_srvs", "_interfaces"))}


def test_the_manifest_names_what_is_imported_and_nothing_else(root: Path) -> None:
    manifest = ElementTree.parse(root / "package.xml").getroot()
    needed, tested = ({item.text for item in manifest.findall(kind) if not item.text.startswith("python3-")}
                      for kind in ("exec_depend", "test_depend"))
    assert needed == _ros_imports(root / "ros_gpt4roi", root / "launch")
    assert tested == _ros_imports(root / "tests") - needed


# What the files of a room may not import: see docs/architecture.md.
OUTER = {
    "ros_gpt4roi/model": ("ros_gpt4roi.engine", "ros_gpt4roi.runtime", "ros_gpt4roi.sim", "training", "rclpy"),
    "ros_gpt4roi/engine": ("ros_gpt4roi.runtime", "ros_gpt4roi.sim", "training", "rclpy"),
    "ros_gpt4roi/runtime": ("ros_gpt4roi.sim", "training", "rclpy"),
    "ros_gpt4roi/console": ("ros_gpt4roi.runtime", "ros_gpt4roi.model", "ros_gpt4roi.engine", "training"),
    "ros_gpt4roi/speech": ("ros_gpt4roi.model", "ros_gpt4roi.engine", "ros_gpt4roi.runtime", "training", "rclpy"),
    "ros_gpt4roi/sim": ("ros_gpt4roi.model", "ros_gpt4roi.engine", "ros_gpt4roi.runtime", "training", "rclpy"),
    "ros_gpt4roi": ("ros_gpt4roi.nodes",),
    "training": ("ros_gpt4roi.nodes", "rclpy"),
}


@pytest.mark.parametrize("room", OUTER)
def test_imports_go_one_way(root: Path, room: str) -> None:
    wrong = []
    for path in (root / room).rglob("*.py"):
        here = path.relative_to(root).parent.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = ".".join(here[:len(here) + 1 - node.level]) if node.level else ""
                module = ".".join(filter(None, (base, node.module)))
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            wrong += [(str(path.relative_to(root)), name) for name in names for outer in OUTER[room]
                      if f"{name}.".startswith(f"{outer}.") and here[:2] != ("ros_gpt4roi", "nodes")]
    assert not wrong


def test_every_interface_file_is_built(root: Path) -> None:
    for package in ("ros_gpt4roi_interfaces", "vision_msgs"):
        folder = root / "interfaces" / package
        listed = (folder / "CMakeLists.txt").read_text(encoding="utf-8").split()
        files = [str(path.relative_to(folder)) for kind in ("msg", "srv", "action")
                 for path in folder.glob(f"{kind}/*")]
        assert sorted(set(files) - set(listed)) == []


def test_files_of_the_package_are_found_installed_or_not(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    assert paths.find("package.xml").samefile(root / "package.xml")
    monkeypatch.setattr(paths, "share_folder", lambda: None)
    assert paths.find("package.xml") == root / "package.xml"
    with pytest.raises(FileNotFoundError, match="models/nosuch"):
        paths.find("models/nosuch")


def test_two_processes_never_share_a_ros_domain(root: Path, ros_domain: int) -> None:
    domain, claim = claim_domain()
    with claim:
        code = "import isolation; print(isolation.claim_domain()[0])"
        other = subprocess.run([sys.executable, "-c", code], cwd=root / "scripts", capture_output=True, text=True,
                               timeout=60)
        domains = {domain, int(other.stdout), ros_domain}
    assert len(domains) == 3
    assert all(1 <= number <= 101 for number in domains)


def test_a_link_in_the_place_of_a_domain_lock_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept", encoding="utf-8")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("isolation._DOMAINS", range(1, 3))
    (tmp_path / f"ros_gpt4roi_domain_1_{os.getuid()}.lock").symlink_to(precious)
    domain, claim = claim_domain()
    with claim:
        assert domain == 2
        with pytest.raises(RuntimeError, match="all ROS domains"):
            claim_domain()
    assert precious.read_text(encoding="utf-8") == "kept"
