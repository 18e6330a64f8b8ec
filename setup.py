"""Build of the ament_python package; colcon calls it."""

from glob import glob

from setuptools import find_packages, setup

NAME = "ros_gpt4roi"
MODELS = ("tabletop", "household")


def files(folder: str, *names: str) -> list[tuple[str, list[str]]]:
    """A folder's files of such names and their place below share/; nothing where it has none."""
    found = sorted(path for name in names for path in glob(f"{folder}/{name}"))
    return [(f"share/{NAME}/{folder}", found)] if found else []


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["fastdds.xml", "console/static/*", "sim/household/*.yaml", "models/catalogue.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *files("launch", "*.py"),
        *files("config", "*.*"),
        *files("engines", "*.yaml"),
        *files("engines/probe", "*"),
        *(place for model in MODELS for place in files(f"models/{model}", "*.json", "*.safetensors", "*.yaml")),
        *(place for model in MODELS for place in files(f"models/{model}/probes", "*")),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="ros_gpt4roi developers",
    maintainer_email="dev@example.com",
    description="Region captioning and region questions for robots: GPT4RoI as a ROS 2 node",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            f"perception = {NAME}.executables:perception",
            f"sim_camera = {NAME}.executables:sim_camera",
            f"speech = {NAME}.executables:speech",
            f"recorder = {NAME}.executables:recorder",
            f"describe = {NAME}.executables:describe",
            f"ask = {NAME}.executables:ask",
            f"console = {NAME}.executables:console",
            f"build_engine = {NAME}.executables:build_engine",
            f"web_console = {NAME}.executables:web_console",
            f"simulated_world = {NAME}.executables:simulated_world",
        ],
    },
)
