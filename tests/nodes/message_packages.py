"""Message packages that ROS from pip does not have, built for the tests with the fields that the real ones have.

foxglove_msgs, hri_msgs and audio_common_msgs as of their releases for Jazzy, yolo_msgs as bags are read with.
Where the real one is installed, it is used.
"""
from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from training.data.bags.yolo_definitions import YOLO_MSGS

_PACKAGES = {
    "audio_common_msgs": {
        "AudioData": "uint8[] data",
        "AudioDataStamped": "std_msgs/Header header\nAudioData audio",
    },
    "foxglove_msgs": {
        "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a",
        "Point2": "float64 x\nfloat64 y",
        "CircleAnnotation": "builtin_interfaces/Time timestamp\nPoint2 position\nfloat64 diameter\nfloat64 thickness\n"
                            "Color fill_color\nColor outline_color",
        "PointsAnnotation": "builtin_interfaces/Time timestamp\nuint8 UNKNOWN=0\nuint8 POINTS=1\nuint8 LINE_LOOP=2\n"
                            "uint8 LINE_STRIP=3\nuint8 LINE_LIST=4\nuint8 type\nPoint2[] points\nColor outline_color\n"
                            "Color[] outline_colors\nColor fill_color\nfloat64 thickness",
        "TextAnnotation": "builtin_interfaces/Time timestamp\nPoint2 position\nstring text\nfloat64 font_size\n"
                          "Color text_color\nColor background_color",
        "RawAudio": "builtin_interfaces/Time timestamp\nuint8[] data\nstring format\nuint32 sample_rate\n"
                    "uint32 number_of_channels",
        "ImageAnnotations": "CircleAnnotation[] circles\nPointsAnnotation[] points\nTextAnnotation[] texts",
    },
    "hri_msgs": {
        "LiveSpeech": "std_msgs/Header header\nstring incremental\nstring final\nfloat64 confidence\nstring locale",
    },
    "yolo_msgs": YOLO_MSGS,
}
_DEPENDENCIES = ("builtin_interfaces", "geometry_msgs", "std_msgs")


def build(folder: Path) -> None:
    """Builds what is missing, and makes it known to this process and to those that it starts."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if not missing:
        return
    for name in missing:
        _write(folder / "src" / name, name)
    install = folder / "install"
    # colcon has make wait while the load is above the number of cores, as it always is where tests run in parallel.
    environment = {**os.environ, "MAKEFLAGS": f"-j{os.cpu_count()}"}
    subprocess.run([sys.executable, "-m", "colcon", "build", "--merge-install", "--base-paths", folder / "src",
                    "--build-base", folder / "build", "--install-base", install, "--cmake-args", "-DBUILD_TESTING=OFF",
                    "-Wno-dev", f"-DCMAKE_INSTALL_RPATH={install / 'lib'}"],
                   cwd=folder, env=environment, check=True, timeout=560, capture_output=True)
    (site,) = install.glob("lib/python3*/site-packages")
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    for library in install.glob("lib/*.so"):  # a running process does not read LD_LIBRARY_PATH again
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    for name, path in (("PYTHONPATH", site), ("LD_LIBRARY_PATH", install / "lib"), ("AMENT_PREFIX_PATH", install)):
        os.environ[name] = os.pathsep.join(filter(None, [str(path), os.environ.get(name)]))


def _write(folder: Path, name: str) -> None:
    (folder / "msg").mkdir(parents=True)
    for message, fields in _PACKAGES[name].items():
        (folder / "msg" / f"{message}.msg").write_text(fields + "\n")
    found = "\n".join(f"find_package({package} REQUIRED)" for package in
                      ("ament_cmake", "rosidl_default_generators", *_DEPENDENCIES))
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject({name})\n{found}\n"
        f"rosidl_generate_interfaces({name} {' '.join(f'msg/{message}.msg' for message in _PACKAGES[name])}\n"
        f"  DEPENDENCIES {' '.join(_DEPENDENCIES)})\nament_package()\n")
    depends = "".join(f"<depend>{package}</depend>" for package in _DEPENDENCIES)
    (folder / "package.xml").write_text(
        f'<package format="3"><name>{name}</name><version>0.0.0</version><description>Stand-in</description>'
        '<maintainer email="dev@example.com">tests</maintainer><license>Apache-2.0</license>'
        "<buildtool_depend>ament_cmake</buildtool_depend>"
        f"<buildtool_depend>rosidl_default_generators</buildtool_depend>{depends}"
        "<member_of_group>rosidl_interface_packages</member_of_group>"
        "<export><build_type>ament_cmake</build_type></export></package>\n")
