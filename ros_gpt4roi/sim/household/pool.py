"""All models of the household in one compiled MuJoCo scene, of which each scene takes what it needs.

Reading and compiling takes most of a minute, so the result is kept in ~/.cache/ros_gpt4roi/household.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from ros_gpt4roi.sim.studio import add_room

from .catalogue import AssetsError, LookedLike, find_assets, kinds, xml_file

#: Half the table top's sides, metres, and how high it stands over the floor.
TABLE_HALF, TABLE_HEIGHT = (0.62, 0.45), 0.74
#: Of the textures of floor, walls and table top, pixels a side.
SURFACE_SIZE = 512

_TEXTURE_SIZE = 512  # objects are seldom larger in a picture; the models' own have up to 4096
_SHADOW_MAP = 2048
_FORMAT = 2  # of what is kept; raise it where the pool changes


def models() -> list[tuple[str, LookedLike]]:
    """Every model with the identifier of its kind, in the order of the pool."""
    return [(name, model) for name, kind in kinds().items() for model in kind.models]


def load_pool(mujoco: ModuleType, width: int, height: int, cache: Path | None = None) -> Any:
    """The compiled pool, a mujoco.MjModel.

    The model of place N of `models()` has names that begin with "N/". Its visible geoms are in group 1, those that
    only collide in group 3.

    Args:
        mujoco: The package.
        width: Of the pictures that are to be rendered, pixels.
        height: Likewise.
        cache: Where the result is kept; by default ~/.cache/ros_gpt4roi/household, by the XDG convention.

    Raises:
        AssetsError: a model is not there or cannot be read.
    """
    assets = find_assets()
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ros_gpt4roi" / "household"
    kept = folder / f"{_fingerprint(mujoco, assets)}.mjb"
    model = _load(mujoco, kept)
    if model is None:
        try:
            model = _compile(mujoco, assets)
        except ValueError as error:
            raise AssetsError(f"a model of the household in {assets} can not be read: {error}") from error
        _keep(mujoco, model, kept)
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    return model


def _fingerprint(mujoco: ModuleType, assets: Path) -> str:
    """Changes with the files, by their sizes: their packages are pinned by hash."""
    digest = hashlib.sha256(f"{_FORMAT} {mujoco.__version__} {_TEXTURE_SIZE}".encode())
    for _, model in models():
        path = xml_file(assets, model.file)
        assert path is not None  # find_assets has looked
        digest.update(f"{model.file} {path.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def _load(mujoco: ModuleType, path: Path) -> Any | None:
    """What was kept; None where that is nothing, or was cut short."""
    if not path.is_file():
        return None
    try:
        return mujoco.MjModel.from_binary_path(str(path))
    except (ValueError, mujoco.FatalError):
        return None


def _keep(mujoco: ModuleType, model: Any, path: Path) -> None:
    """Writes the pool for the next time, in place of earlier ones; a full disk costs only that."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / "pool.mjb"
            mujoco.mj_saveModel(model, str(part), None)
            if _load(mujoco, part) is None:  # MuJoCo does not say where the disk was full
                return
            part.replace(path)
        for earlier in path.parent.glob("*.mjb"):
            if earlier != path:
                earlier.unlink()
    except OSError:
        return


def _compile(mujoco: ModuleType, assets: Path) -> Any:
    spec = mujoco.MjSpec()
    spec.option.timestep = 0.002
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    visual = spec.visual
    visual.quality.shadowsize, visual.quality.offsamples = _SHADOW_MAP, 4
    visual.map.znear, visual.map.zfar, visual.map.shadowclip = 0.02, 12.0, 1.0
    visual.headlight.active = 1
    visual.headlight.diffuse, visual.headlight.specular = [0, 0, 0], [0, 0, 0]
    spec.stat.extent, spec.stat.center = 1.0, [0, 0, 0]
    add_room(mujoco, spec, TABLE_HALF, TABLE_HEIGHT, SURFACE_SIZE, (4, 3, 1))
    for geom in spec.worldbody.geoms:
        geom.group = 1
    # Far thicker than it looks: what is pressed into it comes out at the top.
    spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=[*TABLE_HALF, 0.3], pos=[0, 0, -0.3],
                            group=3, friction=[0.95, 0.3, 0.1])
    for number, (name, model) in enumerate(models()):
        path = xml_file(assets, model.file)
        assert path is not None
        try:
            child = _read(mujoco, path)
            if (body := child.worldbody.first_body()) is None:
                raise ValueError("it has no body")
            body = spec.worldbody.add_frame().attach_body(body, f"{number}/", "")
        except (ValueError, OSError, ElementTree.ParseError) as error:
            raise AssetsError(f"{path} can not be read ({error}), expected a model of the household; install its "
                              "package anew") from error
        body.name = f"{number}/"
        if not kinds()[name].furniture:
            body.add_freejoint(name=f"{number}/free")
    return spec.compile()


def _read(mujoco: ModuleType, path: Path) -> Any:
    """A model as robosuite's loader reads it: some are no MuJoCo files as they stand."""
    root = ElementTree.parse(path).getroot()
    for element in root.findall("size"):  # limits of an older MuJoCo
        root.remove(element)
    compiler = root.find("compiler")
    if compiler is None:
        compiler = ElementTree.SubElement(root, "compiler")
    compiler.set("inertiagrouprange", "0 5")
    compiler.set("meshdir", str(path.parent))
    compiler.set("texturedir", str(path.parent))
    _rename_repeated(root)
    child = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    for texture in child.textures:
        if texture.file and texture.type == mujoco.mjtTexture.mjTEXTURE_2D:
            _shrink(texture, path.parent / texture.file)
    for geom in child.geoms:
        if geom.group == 0:  # drawn half transparent, to show where it is
            geom.group = 3
        if geom.group == 3 and not geom.contype and not geom.conaffinity:
            geom.contype = geom.conaffinity = 1
    return child


def _rename_repeated(root: ElementTree.Element) -> None:
    """Textures of one name: each material means the last one before it."""
    newest: dict[str, str] = {}
    for element in root.iterfind("asset/*"):
        if element.tag == "texture":
            name = element.get("name", "")
            newest[name] = f"{name}{'.again' * (name in newest)}"
            element.set("name", newest[name])
        elif element.tag == "material" and element.get("texture") in newest:
            element.set("texture", newest[str(element.get("texture"))])


def _shrink(texture: Any, path: Path) -> None:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is no picture that OpenCV can read")
    scale = _TEXTURE_SIZE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    texture.file = ""
    texture.height, texture.width, texture.nchannel = image.shape
    texture.data = np.ascontiguousarray(image[:, :, ::-1]).tobytes()


def surfaces(assets: Path, held_out: bool) -> Iterator[Path]:
    """The pictures of floors, walls and table tops, in a fixed order.

    Args:
        assets: As `find_assets` returns it.
        held_out: Those of the split "unseen" (every fifth), else all others.
    """
    for place, path in enumerate(sorted((assets / "textures").glob("*.png"))):
        if (place % 5 == 4) == held_out:
            yield path
