"""What a cut gets besides its tokens: colours by image id, the query of the cls token, and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edited_store import set_row

from maskmill.cut import attention, spectral
from maskmill.cut.run import OptionalFiles, run
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter

GRIDS = {"im/0": (9, 12), "im/1": (14, 7), "im/2": (1, 1)}
DEPTH, HEADS = 12, 3


def tokens(image_id: str) -> np.ndarray:
    h, w = GRIDS[image_id]
    rng = np.random.default_rng(int(image_id[-1]))
    body = rng.standard_normal((h, w, DEPTH)) + 1
    body[h // 3 : h // 2 + 1, w // 4 : w // 2 + 1, ::2] *= -1
    return body.astype(np.float32)


def colours(image_id: str) -> np.ndarray:
    h, w = GRIDS[image_id]
    return np.random.default_rng(10 + int(image_id[-1])).random((h, w, 5)).astype(np.float32)


def query(image_id: str) -> np.ndarray:
    return np.random.default_rng(20 + int(image_id[-1])).standard_normal(DEPTH).astype(np.float32)


def store(path: Path, ids: list[str], with_query: bool = True) -> Path:
    attrs = {"backbone": "small_vit", "facet": "key", "stride": 14} | ({"heads": HEADS} if with_query else {})
    made = Provenance.of("features", {"backbone": "b"})
    with RaggedWriter(path, "features", depth=DEPTH, dtype="float32", attrs=attrs, provenance=made) as out:
        for image_id in ids:
            out.append(image_id, tokens(image_id), **({"cls_query": query(image_id)} if with_query else {}))
    return path


def colour_store(
    path: Path, ids: list[str], backbone: str = "colour", crop: int = 0, concat: list[dict[str, str]] | None = None
) -> Path:
    made = Provenance.of("features", {"backbone": "colour"} | ({"concat": concat} if concat else {}))
    attrs = {"backbone": backbone, "facet": "token", "stride": 14}
    with RaggedWriter(path, "features", depth=5, dtype="float32", attrs=attrs, provenance=made) as out:
        for image_id in ids:
            out.append(image_id, colours(image_id)[:, : GRIDS[image_id][1] - crop])
    return path


def section(method: str, **own: object) -> dict[str, object]:
    return {"features": "grouping", "method": method, **own}


def test_colours_are_matched_by_id_not_by_place(tmp_path: Path) -> None:
    ids = list(GRIDS)
    features, colour = store(tmp_path / "f.zarr", ids), colour_store(tmp_path / "c.zarr", ids[::-1])
    params = section("spectral", colour="colour", colour_weight=10, segments=4)
    run(features, params, tmp_path / "cut.zarr", 3, 1, optional=OptionalFiles(colour=colour))
    cut = Ragged(tmp_path / "cut.zarr", "segments")
    assert cut.provenance["inputs"] == [Ragged(features).hash, Ragged(colour).hash]
    assert cut.attrs == {"method": "spectral", "outcomes": spectral.TRAITS.outcomes}
    own = spectral.Params(colour_weight=10, segments=4)
    for i, image_id in enumerate(ids):
        expected, values = spectral.cut(tokens(image_id), own, 3, image_id, colour=colours(image_id)[..., :3])
        np.testing.assert_array_equal(cut[image_id], expected)
        np.testing.assert_allclose(cut.per_image("scores")[i], values["scores"], atol=1e-6)
    assert cut.per_image("scores").shape == (3, 3)
    assert cut.per_image("scores").dtype == np.float32


def test_colours_that_weigh_nothing_change_nothing(tmp_path: Path) -> None:
    ids = list(GRIDS)
    features, colour = store(tmp_path / "f.zarr", ids), colour_store(tmp_path / "c.zarr", ids)
    run(features, section("spectral"), tmp_path / "a.zarr", 0, 1)
    run(
        features, section("spectral", colour="colour"), tmp_path / "b.zarr", 0, 1, optional=OptionalFiles(colour=colour)
    )
    np.testing.assert_array_equal(Ragged(tmp_path / "a.zarr").values[...], Ragged(tmp_path / "b.zarr").values[...])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("method", ["spectral", "attention", "primaps", "shi_malik"])
def test_threads_do_not_change_a_byte(method: str, threads: int, tmp_path: Path) -> None:
    features = store(tmp_path / "f.zarr", list(GRIDS))
    run(features, section(method), tmp_path / "one.zarr", 0, 1)
    run(features, section(method), tmp_path / "more.zarr", 0, threads)
    one, more = Ragged(tmp_path / "one.zarr"), Ragged(tmp_path / "more.zarr")
    np.testing.assert_array_equal(one.values[...], more.values[...])
    np.testing.assert_array_equal(one.per_image("scores"), more.per_image("scores"))


def test_the_query_goes_with_its_image(tmp_path: Path) -> None:
    run(store(tmp_path / "f.zarr", list(GRIDS)), section("attention"), tmp_path / "cut.zarr", 0, 1)
    cut = Ragged(tmp_path / "cut.zarr")
    for i, image_id in enumerate(GRIDS):
        by_head = query(image_id).reshape(HEADS, -1)
        expected, values = attention.cut(tokens(image_id), attention.Params(), 0, image_id, by_head)
        np.testing.assert_array_equal(cut[image_id], expected)
        assert cut.per_image("mass")[i] == pytest.approx(values["mass"], abs=1e-6)


def test_colours_of_the_tokens_themselves(tmp_path: Path) -> None:
    """shi_malik on colours looks at r, g, b only, and learns from the store that they are colours."""
    from maskmill.cut import shi_malik

    run(colour_store(tmp_path / "c.zarr", ["im/0"]), section("shi_malik"), tmp_path / "cut.zarr", 0, 1)
    expected, _ = shi_malik.cut(colours("im/0"), shi_malik.Params(), 0, "im/0", backbone="colour")
    np.testing.assert_array_equal(Ragged(tmp_path / "cut.zarr")["im/0"], expected)


def test_colours_beside_other_tokens_are_no_colours(tmp_path: Path) -> None:
    """Their vectors have length one, so that a method takes them for tokens of any kind, or not at all."""
    from maskmill.cut import felzenszwalb

    mixed = colour_store(tmp_path / "c.zarr", ["im/0"], concat=[{"backbone": "sift"}])
    run(mixed, section("felzenszwalb"), tmp_path / "cut.zarr", 0, 1)
    expected, _ = felzenszwalb.cut(colours("im/0"), felzenszwalb.Params(), 0, "im/0", backbone="")
    np.testing.assert_array_equal(Ragged(tmp_path / "cut.zarr")["im/0"], expected)
    with pytest.raises(ConfigError, match="the backbone 'colour and 1 more'; name one with backbone: colour"):
        run(mixed, section("selective"), tmp_path / "tree.zarr", 0, 1)
    features = store(tmp_path / "f.zarr", ["im/0"])
    with pytest.raises(StoreError, match=r"cut\.colour: features of 'colour and 1 more', expected backbone: colour"):
        run(
            features,
            section("spectral", colour_weight=1),
            tmp_path / "o.zarr",
            0,
            1,
            optional=OptionalFiles(colour=mixed),
        )


def test_an_empty_shard(tmp_path: Path) -> None:
    features, colour = store(tmp_path / "f.zarr", []), colour_store(tmp_path / "c.zarr", [])
    run(
        features, section("spectral", colour_weight=1), tmp_path / "a.zarr", 0, 1, optional=OptionalFiles(colour=colour)
    )
    run(features, section("attention"), tmp_path / "b.zarr", 0, 1)
    assert len(Ragged(tmp_path / "a.zarr")) == len(Ragged(tmp_path / "b.zarr")) == 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    ids, out = list(GRIDS), tmp_path / "cut.zarr"
    features = store(tmp_path / "f.zarr", ids)
    coloured = section("spectral", colour_weight=10)
    with pytest.raises(StoreError, match=r"f\.zarr: this cut also needs the colours .*cut\.colour"):
        run(features, coloured, out, 0, 1)
    with pytest.raises(StoreError, match=r"c\.zarr: no colours of 'im/1'"):
        run(features, coloured, out, 0, 1, optional=OptionalFiles(colour=colour_store(tmp_path / "c.zarr", ids[:1])))
    with pytest.raises(StoreError, match=r"im/0 has 9x11 cells and 9x12 tokens; .*same size and stride: 14"):
        run(
            features,
            coloured,
            out,
            0,
            1,
            optional=OptionalFiles(colour=colour_store(tmp_path / "d.zarr", ids[:2], crop=1)),
        )
    with pytest.raises(StoreError, match=r"e\.zarr: cut\.colour: features of 'resnet', expected backbone: colour"):
        run(
            features,
            coloured,
            out,
            0,
            1,
            optional=OptionalFiles(colour=colour_store(tmp_path / "e.zarr", ids, "resnet")),
        )
    plain = store(tmp_path / "g.zarr", ids, with_query=False)
    with pytest.raises(
        StoreError, match=r"g\.zarr: has no query of a cls token \(small_vit, facet key\); .*facet: key"
    ):
        run(plain, section("attention"), out, 0, 1)
    assert not out.exists()


def test_broken_colours_are_named(tmp_path: Path) -> None:
    colour = colour_store(tmp_path / "c.zarr", list(GRIDS))
    set_row(colour, 3, np.nan)
    with pytest.raises(NumericsError, match=r"im/0: .*colours"):
        run(
            store(tmp_path / "f.zarr", list(GRIDS)),
            section("spectral", colour_weight=1),
            tmp_path / "o",
            0,
            1,
            optional=OptionalFiles(colour=colour),
        )
