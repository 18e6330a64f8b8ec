"""Nothing phones home: no look-up, no connection, no file outside, whatever libraries would do by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")

# Preloaded: notes in $NETWORK_LOG what leaves the machine, or asks for it, from C and C++ as from Python.
TRACE = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void note(const char *call, const char *what) {
    FILE *log = fopen(getenv("NETWORK_LOG"), "a");
    if (log) { fprintf(log, "%s %s\n", call, what ? what : "?"); fclose(log); }
}
static void note_address(const char *call, const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "";
    if (to && to->sa_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)to)->sin_addr, text, sizeof text);
    else if (to && to->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)to)->sin6_addr, text, sizeof text);
    if (*text) note(call, text);
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    note("getaddrinfo", node);
    int (*next)() = dlsym(RTLD_NEXT, "getaddrinfo");
    return next(node, service, hints, result);
}
struct hostent *gethostbyname(const char *name) {
    note("gethostbyname", name);
    struct hostent *(*next)() = dlsym(RTLD_NEXT, "gethostbyname");
    return next(name);
}
int connect(int socket, const struct sockaddr *to, socklen_t size) {
    note_address("connect", to);
    int (*next)() = dlsym(RTLD_NEXT, "connect");
    return next(socket, to, size);
}
ssize_t sendto(int socket, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    note_address("sendto", to);
    ssize_t (*next)() = dlsym(RTLD_NEXT, "sendto");
    return next(socket, data, length, flags, to, size);
}
"""

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.engine.profiles import EngineOptions
import training.trainer
engines = EngineOptions(cache=sys.argv[3])
pipeline = Pipeline.open(sys.argv[2], PipelineConfig(vision=VisionOptions(backend="onnxruntime", engine=engines)))
pipeline.warm_up()
print(pipeline.encoder.vision.backend)
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    (folder / "trace.c").write_text(TRACE)
    subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", folder / "trace.so", folder / "trace.c", "-ldl"], check=True)
    return folder / "trace.so"


def traced(trace: Path, folder: Path, *command: str, **more: str) -> tuple[str, set[str], set[Path]]:
    """What a Python prints that runs in an empty home, what it looked up or connected to, and the files it left."""
    places = {name: folder / name for name in ("home", "work", "temporary")}
    for place in places.values():
        place.mkdir()
    environment = {name: value for name, value in os.environ.items()
                   if name not in TELEMETRY and not name.startswith(("XDG_", "HF_", "_ROS_WHEELS"))}
    environment |= {"HOME": str(places["home"]), "TMPDIR": str(places["temporary"]), "LD_PRELOAD": str(trace),
                    "NETWORK_LOG": str(folder / "log"), "PYTHONDONTWRITEBYTECODE": "1", **more}
    done = subprocess.run([sys.executable, "-c", *command], env=environment, cwd=places["work"], capture_output=True,
                          text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    log = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    left = {path for place in places.values() for path in place.rglob("*") if path.is_file()}
    return done.stdout, {line for line in log if not line.endswith((" 127.0.0.1", " ::1", " localhost"))}, left


def test_the_trace_sees_look_ups_connections_and_files(trace: Path, tmp_path: Path) -> None:
    code = """
import pathlib, socket
pathlib.Path.home().joinpath("deviceid").write_text("1")
try:
    socket.getaddrinfo("example.invalid", 443)
except OSError:
    pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.connect(("192.0.2.1", 9))
"""
    _, seen, left = traced(trace, tmp_path, code)
    assert {"getaddrinfo example.invalid", "connect 192.0.2.1"} <= seen
    assert {path.name for path in left} == {"deviceid"}


@pytest.mark.slow
def test_a_pipeline_looks_nothing_up_and_leaves_nothing(trace: Path, tmp_path: Path, root: Path) -> None:
    from ros_gpt4roi.paths import find_model

    out, seen, left = traced(trace, tmp_path, RUN, str(root), str(find_model("tabletop")), str(tmp_path / "engines"))
    assert out.split() == ["onnxruntime"] and (tmp_path / "engines").is_dir()
    assert not seen and not left


@pytest.mark.parametrize("package", ["ros_gpt4roi", "training", "benchmarks"])
def test_every_package_forbids_telemetry_before_anything_else_is_imported(package: str, root: Path) -> None:
    code = (f"import sys, os; sys.path.insert(0, {str(root)!r}); import {package}; "
            f"assert all(os.environ[name] == '1' for name in {TELEMETRY}); "
            "assert not {'onnxruntime', 'huggingface_hub', 'transformers', 'torch'} & set(sys.modules)")
    kept = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    subprocess.run([sys.executable, "-c", code], env=kept, check=True, timeout=60)
