"""`maskmill plan`: arithmetic by hand, properties, errors, and the jobs of a real dry run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import ROOT, jobs, snakemake
from typer.testing import CliRunner

from maskmill.backbones.network import Backbone, create, import_timm
from maskmill.cli.app import app
from maskmill.errors import ConfigError
from maskmill.plan import run as planner
from maskmill.plan import text
from maskmill.plan.artefacts import artefacts
from maskmill.plan.build import Machines, Plan, build
from maskmill.plan.disk import feature_bytes, value_bytes
from maskmill.plan.geometry import geometry
from maskmill.plan.images import PlannedImages, Shards, in_windows, mixture, of_manifest, of_one_size, photo_size, whole
from maskmill.plan.jobs import ORDER
from maskmill.plan.jobs import jobs as planned_jobs
from maskmill.plan.rates import START, WHOLE_IMAGE, Rates, of_run, read_benchmarks, read_given, too_short
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.inputs import Window
from maskmill.recipe.model import Run
from maskmill.recipe.resolve import load
from maskmill.store.artefact import write_table
from maskmill.store.product import LETTERS, Codec
from maskmill.store.ragged import RaggedWriter

PHOTO = {(375, 500): 1.0}


def comus(**more: Any) -> Run:
    return load({"recipes": ["comus"], "preset": "small"} | more, ROOT / "recipes")


def test_shards_of_one_size() -> None:
    images = of_one_size(1000, 256, PHOTO)
    assert [(group.count, group.images) for group in images.shards] == [(4, 250)]
    assert of_one_size(10, 256, PHOTO).shard_count == 1
    uneven = of_one_size(10, 3, PHOTO)
    assert sorted((group.count, group.images) for group in uneven.shards) == [(1, 4), (2, 3)]
    assert (uneven.count, uneven.shard_count, uneven.largest) == (10, 3, 4)


def test_tokens_by_hand() -> None:
    images = PlannedImages((Shards(2, 10, {(375, 500): 0.5, (100, 800): 0.5}),))
    assert images.tokens(Size(square=448), 14) == 20 * 32 * 32
    # short side 448: 375x500 -> 448x597 -> 32 x 43 patches; 100x800 is 8 : 1, the most that is let in -> 32 x 256
    assert images.tokens(Size(short_side=448), 14) == 2 * (5 * 32 * 43 + 5 * 32 * 256)


def test_value_bytes_by_hand() -> None:
    # ViT-S in float16: a row of 768 bytes, 5461 rows in a chunk of 4 MiB, 16 chunks in a shard of 64 MiB
    assert value_bytes(1, 384, 2) == 5461 * 768 + 4 + 16 * 16 + 4
    assert value_bytes(5462, 384, 2) == 2 * (5461 * 768 + 4) + 16 * 16 + 4
    assert value_bytes(16 * 5461 + 1, 384, 2) == 17 * (5461 * 768 + 4) + 2 * (16 * 16 + 4)
    assert value_bytes(0, 384, 2) == 0


@pytest.mark.parametrize(("rows", "depth", "dtype"), [(100, 7, "float16"), (9000, 384, "float16"), (9000, 384, "int8")])
def test_value_bytes_are_those_of_a_store(tmp_path: Path, rows: int, depth: int, dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal((rows, 1, depth), dtype=np.float32)
    with RaggedWriter(tmp_path / "s.zarr", "features", depth=depth, dtype=dtype) as out:
        out.append("a", values, cls=np.zeros(depth, np.float16))
    on_disk = sum(f.stat().st_size for f in (tmp_path / "s.zarr/values/c").rglob("*") if f.is_file())
    assert on_disk == value_bytes(rows, depth, 1 if dtype == "int8" else 2)


def test_bytes_of_codes_are_those_of_a_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((384, 384)))[0].astype(np.float32)
    codec = Codec(rotation, rng.standard_normal((32, LETTERS, 12), dtype=np.float32))
    with RaggedWriter(tmp_path / "s.zarr", "features", depth=384, dtype=codec) as out:
        out.append("a", rng.integers(0, 256, (6000, 1, 32), dtype=np.uint8), cls=np.zeros(384, np.float16))
    on_disk = sum(f.stat().st_size for f in (tmp_path / "s.zarr/values/c").rglob("*") if f.is_file())
    assert on_disk == value_bytes(6000, 32, 1, 2 * 384)
    whole = sum(f.stat().st_size for f in (tmp_path / "s.zarr").rglob("*") if f.is_file() and f.name != "zarr.json")
    assert whole == pytest.approx(feature_bytes(6000, 1, 384, "pq", 1, 32), rel=0.1)  # zstd finds little in floats


def test_a_codec_is_one_job_over_a_sample() -> None:
    coded = load({"recipes": ["kmeans"], "features": {"semantic": {"dtype": "pq"}}}, ROOT / "recipes")
    (work,) = (work for work in planned_jobs(coded, of_one_size(1000, 100, PHOTO)) if work.rule == "features_pq")
    assert (work.jobs, work.amount) == (1, 256)
    rates = Rates().of(work, coded), Rates().of(replace(work, rule="features"), coded)
    assert rates[0] == rates[1]
    sizes = [artefact.bytes for run in (coded, load({"recipes": ["kmeans"]}, ROOT / "recipes"))
             for artefact in artefacts(run, of_one_size(100_000, 10_000, PHOTO)) if artefact.feature_set]  # fmt: skip
    assert 15 < sizes[1] / sizes[0] < 20


def test_feature_bytes_of_int8_hold_scales() -> None:
    assert feature_bytes(1000, 4, 10, "int8", 1) == value_bytes(1000, 10, 1) + 4000 + 4 * (40 + 40)
    assert feature_bytes(1000, 4, 10, "float16", 2) == value_bytes(1000, 10, 2) + 4 * (40 + 40)


@pytest.mark.parametrize(
    "chosen",
    [
        {"backbone": "resnet18", "layer": 2},
        {"backbone": "resnet18", "stride": 16},
        {"backbone": "vit_tiny_patch16_224", "facet": "key"},
        {"backbone": "tf_efficientnet_lite0"},
    ],
)
def test_geometry_is_that_of_the_network(chosen: dict[str, Any]) -> None:
    feature_set = FeatureSet(**chosen)
    model = create(import_timm(), feature_set.backbone, feature_set)
    network = Backbone(model, feature_set, (0, 0, 0), (1, 1, 1), torch.device("cpu"))
    found = geometry(feature_set)
    assert (found.stride, found.depth) == (network.stride, network.depth)
    assert found.vectors == (1 if network.heads is None else 2)


def test_geometry_of_what_needs_no_timm() -> None:
    assert geometry(FeatureSet(backbone="colour", stride=8)).depth == 5
    focus = geometry(FeatureSet(backbone="vit_small_focus", facet="key"))
    assert (focus.stride, focus.depth, focus.vectors) == (14, 384, 2)


def test_unknown_backbone_says_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"'resnt18'.*name a timm architecture"):
        geometry(FeatureSet(backbone="resnt18"))


def pretrained(size: int = 224, **section: Any) -> Run:
    """DINO's small preset: two crops of 96 px and two of 48 px of a photo."""
    features = {"semantic": {"size": {"square": size}}}
    return load({"recipes": ["dino"], "preset": "small", "pretrain": section, "features": features}, ROOT / "recipes")


def test_a_training_of_a_backbone_grows_with_its_samples_and_crops() -> None:
    images = of_one_size(1000, 100, PHOTO)
    run, larger = pretrained(steps=50, batch_size=32), pretrained(steps=50, batch_size=32, crop=192)
    (fit,), (other,) = ([w for w in planned_jobs(each, images) if w.rule == "pretrain_fit"] for each in (run, larger))
    (slug,) = (chosen.weights_slug for chosen in run.recipes["dino"].trained_sets.values())
    assert (fit.owner, fit.jobs, fit.amount, fit.unit, fit.network) == (slug, 1, 50 * 32, "samples", True)
    rates = Rates(measured={"pretrain_fit/vit_tiny_patch16_224": (0.8, 90)})  # 2 x 36 + 2 x 9 patches of 16 px
    small, large = rates.of(fit, run), rates.of(other, larger)
    assert small is not None
    assert large is not None
    assert small.seconds == pytest.approx(0.8 / fit.threads)
    assert large.seconds == pytest.approx(0.8 / other.threads * (2 * 144 + 2 * 9) / 90)
    assert Rates(measured={"pretrain_fit/resnet18": (0.8, 90)}).of(fit, run) is None  # another network
    given = Rates(given={"pretrain_fit": 20.0}).of(fit, run)
    assert given is not None
    assert given.seconds == pytest.approx(1 / 20)


def test_a_trained_backbone_is_compared_on_some_photos() -> None:
    """Both networks see two views of each, as many photos as are as large as 256 of 224 px, and no fewer than 64."""
    for size, count, passes in ((224, 1000, 4 * 256), (448, 1000, 4 * 64), (320, 1000, 4 * 125), (224, 90, 4 * 90)):
        run = pretrained(size)
        (work,) = (w for w in planned_jobs(run, of_one_size(count, 100, PHOTO)) if w.rule == "pretrain_accept")
        assert (work.jobs, work.amount, work.unit) == (1, passes, "images")
        rate = Rates(measured={"features/vit_tiny_patch16_224": (0.3, 784)}).of(work, run)
        assert rate is not None
        assert rate.seconds == pytest.approx(0.3 * (size / 16) ** 2 / 784 / work.threads)


def test_recipes_that_train_the_same_share_its_jobs_and_its_weights(tmp_path: Path) -> None:
    """Two files of the weights that timm says, whoever asks for them."""
    body = yaml.safe_load((ROOT / "recipes/dino.yaml").read_text())
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(body | {"cluster": {"method": "kmeans", "clusters": 3}}))
    run = load({"recipes": ["dino", str(tmp_path / "again.yaml")], "preset": "small"}, ROOT / "recipes")
    images = of_one_size(1000, 100, PHOTO)
    count = build(run, images, Rates(), Machines(2)).by_rule()
    assert (count["pretrain_fit"], count["pretrain_accept"], count["cluster_fit"]) == (1, 1, 2)
    (weights,) = (artefact for artefact in artefacts(run, images) if artefact.name == "pretrain")
    state = import_timm().create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).state_dict()
    assert weights.bytes == 2 * sum(4 * value.numel() for value in state.values())


def test_an_earlier_training_says_its_rate(tmp_path: Path) -> None:
    run, images = pretrained(steps=50, batch_size=32), of_one_size(1000, 100, PHOTO)
    (slug,) = (chosen.weights_slug for chosen in run.recipes["dino"].trained_sets.values())
    (tmp_path / "pretrain_fit").mkdir()
    (tmp_path / f"pretrain_fit/{slug}.tsv").write_text(f"s\tmax_rss\n{START + 400}\t900\n")
    found = read_benchmarks(tmp_path)
    assert [(job.rule, job.owner) for job in found] == [("pretrain_fit", slug)]
    assert of_run(found, run, images, {}) == {f"pretrain_fit/{slug}": pytest.approx(400 / 1600)}


def test_hours_by_hand() -> None:
    """Ten shards of 100 images, 2 images a second: a job takes 50 s and its start."""
    run = load({"recipes": ["kmeans"], "inputs": {"shard_size": 100}}, ROOT / "recipes")
    rates = Rates(given={"features": 2.0}, measured={})
    plan = build(run, of_one_size(1000, 100, PHOTO), rates, Machines(cores=8, gpus=0))
    row = next(row for row in plan.rows if row.work.rule == "features")
    assert row.seconds == START + 50
    assert row.hours == pytest.approx(10 * 2 * (START + 50) / 3600)  # two threads each
    assert row.gpu_hours == 0
    assert row.wall == pytest.approx(3 * (START + 50) / 3600)  # four at once on eight cores: 4 + 4 + 2
    on_gpus = build(run, of_one_size(1000, 100, PHOTO), rates, Machines(cores=8, gpus=5))
    row = next(row for row in on_gpus.rows if row.work.rule == "features")
    assert row.gpu_hours == pytest.approx(10 * (START + 50) / 3600)
    assert row.wall == pytest.approx(2 * (START + 50) / 3600)


def test_fit_is_bounded_and_its_memory_is_said() -> None:
    run = load({"recipes": ["kmeans"], "cluster": {"max_fit_points": 3_000_000}}, ROOT / "recipes")
    plan = build(run, of_one_size(10**6, 5000, PHOTO), Rates(measured={}), Machines(2))
    row = next(row for row in plan.rows if row.work.rule == "cluster_fit")
    assert (row.work.points, row.work.depth) == (3_000_000, 320)
    assert row.needs == 2 * 3_000_000 * 320 * 4 + 200 * 10**6  # 7.9 GB in 6000 MB
    assert any(
        "cluster_fit/kmeans: 3000000 vectors of 320 and 1000000 ids take about 7.9 GB" in said for said in plan.warnings
    )


def test_a_core_says_nothing_of_a_gpu() -> None:
    run = load({"recipes": ["kmeans"]}, ROOT / "recipes")
    images, rates = of_one_size(1000, 100, PHOTO), Rates(measured={"features/efficientnet_lite0": (0.1, 0)})
    assert "features" not in " ".join(build(run, images, rates, Machines(2)).unknown)
    assert "features" in " ".join(build(run, images, rates, Machines(2, gpus=1)).unknown)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(100, 50_000))
def test_more_images_never_take_less(few: int, more: int, shard_size: int) -> None:
    few, more = sorted((few, more))
    run = comus(inputs={"shard_size": shard_size})
    rates = Rates(given=dict.fromkeys(ORDER, 10.0), measured={})
    small, large = (build(run, of_one_size(n, shard_size, PHOTO), rates, Machines(4)) for n in (few, more))
    assert small.images.count == few
    assert small.jobs <= large.jobs
    assert sum(small.tokens.values()) <= sum(large.tokens.values())
    chunk = 5 << 20  # padding: another number of shards has other ends, at most a chunk a shard and store
    assert small.bytes_kept <= large.bytes_kept + 6 * chunk * small.images.shard_count
    assert small.total("hours") <= large.total("hours") + 1e-6
    assert large.bytes_not_kept <= large.bytes_needed <= large.bytes_kept


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 10**6), st.integers(1, 5000))
def test_sums_are_the_sums_of_their_parts(count: int, shard_size: int) -> None:
    plan = build(comus(), of_one_size(count, shard_size, PHOTO), Rates(given={"cut": 5.0}, measured={}), Machines(3))
    assert sum(group.count * group.images for group in plan.images.shards) == count
    assert plan.jobs == sum(plan.by_rule().values()) == sum(row.work.jobs for row in plan.rows)
    assert plan.bytes_kept == sum(artefact.bytes for artefact in plan.disk)
    mapped = [row for row in plan.rows if row.work.shards]
    assert all(row.work.jobs % plan.images.shard_count == 0 for row in mapped)
    assert plan.total("hours") == pytest.approx(sum(row.hours or 0 for row in plan.rows))
    body = json.loads(json.dumps(text.as_json(plan)))
    assert body["jobs"] == sum(row["jobs"] for row in body["rows"])
    assert body["bytes"]["kept"] == sum(artefact["bytes"] for artefact in body["disk"])


def test_sets_that_no_fit_reads_need_not_lie_there_at_once() -> None:
    """COMUS as published: crops and photos; its grouping features are read by the cut alone."""
    run = load({"recipes": ["comus"]}, ROOT / "recipes")
    sets = [artefact for artefact in artefacts(run, of_one_size(1000, 100, PHOTO)) if artefact.feature_set]
    assert [(artefact.readers, artefact.whole) for artefact in sets] == [(("cut",), False)]
    small = [artefact for artefact in artefacts(comus(), of_one_size(1000, 100, PHOTO)) if artefact.feature_set]
    assert all(artefact.whole for artefact in small)  # its token head reads both in training


def test_many_shards_are_refused_with_a_better_size() -> None:
    def said(images: int, size: int) -> str:
        run = comus(inputs={"shard_size": size})
        return "\n".join(build(run, of_one_size(images, size, PHOTO), Rates(measured={}), Machines(2)).warnings)

    assert "shard_size 50000 gives about 2000" in said(10**8, 256)
    assert "inputs.shard_size" not in said(10**8, 50_000)
    assert "split them into 5 runs" in said(10**9, 100_000)
    assert "slurm-array-jobs" in said(10**8, 50_000)


def test_short_and_long_jobs_are_said() -> None:
    def said(speed: float) -> str:
        rates = Rates(given={"features": speed, "export": 1000.0}, measured={})
        return "\n".join(build(comus(), of_one_size(10**6, 1000, PHOTO), rates, Machines(2)).warnings)

    assert "features/vit_small_focus" in said(100.0)  # 13 s
    assert "semantic" not in said(100.0)
    assert "shard_size 24000 brings the longest to 5 minutes" in said(100.0)
    assert "features/" not in said(1.0)  # 1003 s
    assert "a smaller shard_size than 256" in said(0.01)
    assert "export/" not in said(1.0)  # the jobs of its shards are short


def test_no_single_job_of_ten_million_images_takes_an_hour() -> None:
    """The ends of the flow are divided; what puts the parts together has a rate of its own."""
    plan = build(comus(), of_one_size(10**7, 5000, PHOTO), Rates(), Machines(64))
    single = {row.work.rule: row.seconds for row in plan.rows if row.work.jobs == 1}
    assert {"inputs_list", "inputs", "export", "report"} <= set(single)
    assert all(seconds is not None and seconds < 3600 for seconds in single.values()), single
    assert any(line.startswith("longest job that cannot be divided: report") for line in text.lines(plan))
    assert plan.by_rule()["inputs_check"] == 500
    assert plan.by_rule()["export_shard"] == 2000
    given = Rates(given={"export": 1000.0}, measured={})  # of a single job: it holds for the shards, not for the index
    rows = {row.work.rule: row for row in build(comus(), of_one_size(10**7, 5000, PHOTO), given, Machines(64)).rows}
    assert rows["export_shard"].rate is not None
    assert rows["export"].rate is None
    few = build(comus(), of_one_size(20_000, 500, PHOTO), Rates(), Machines(64)).by_rule()
    assert not {"inputs_list", "inputs_check", "export_shard"} & set(few)


def test_large_images_count_by_their_windows() -> None:
    run = load({"recipes": ["kmeans"], "inputs": {"window": {"size": 512, "overlap": 64}}}, ROOT / "recipes")
    plan = planner.plan(run, 100, Machines(2), {}, photo=(2000, 3000))
    assert plan.images.count == 100 * 5 * 7  # a window starts every 448 pixels
    assert set(mixture(plan.images)) == {(512, 512)}
    assert planner.plan(run, 100, Machines(2), {}, photo=(400, 512)).images.count == 100
    assert in_windows({(1024, 512): 0.5, (100, 200): 0.5}, Window(size=512, overlap=0)) == (
        1.5, {(512, 512): 1 / 1.5, (100, 200): 0.5 / 1.5},
    )  # fmt: skip


def test_formats_of_whole_images_take_time_in_one_job() -> None:
    def seconds(*formats: str) -> float:
        run = load({"recipes": ["kmeans"], "export": {"formats": list(formats)}}, ROOT / "recipes")
        rows = {row.work.rule: row for row in build(run, of_one_size(10**6, 5000, PHOTO), Rates(), Machines(64)).rows}
        assert rows["export"].seconds is not None
        return rows["export"].seconds

    one = seconds("geotiff") - seconds()
    assert one == pytest.approx(10**6 * WHOLE_IMAGE)
    assert seconds("geotiff", "geojson", "voc") - seconds("voc") == pytest.approx(2 * one)


def test_disk_that_is_too_small_is_said() -> None:
    plan = build(comus(), of_one_size(10**6, 1000, PHOTO), Rates(measured={}), Machines(2), free=10**9)
    assert any(said.startswith("disk:") for said in plan.warnings)


def test_earlier_run_by_hand(tmp_path: Path) -> None:
    """Two jobs of 40 images took 23 and 43 s: 30 s and 40 s without their starts, for 80 images."""
    run = load({"recipes": ["kmeans"]}, ROOT / "recipes")
    slug = next(iter(run.feature_sets))
    for name, seconds in (("s1", "23.0"), ("s2", "43.0")):
        path = tmp_path / f"features/{slug}/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:23\t900.5\n")
    (tmp_path / "inputs.tsv").write_text("s\th:m:s\tmax_rss\nNA\t-\tNA\n")
    found = read_benchmarks(tmp_path)
    assert [(job.rule, job.owner, job.memory) for job in found] == [("features", slug, 900.5)] * 2
    rates = of_run(found, run, PlannedImages((Shards(2, 40, PHOTO),)), {})
    assert rates == {f"features/{slug}": pytest.approx((20 + 40) / 80)}
    assert too_short(found) == frozenset()  # 33 s on average
    work = next(work for work in planned_jobs(run, of_one_size(100, 50, PHOTO)) if work.rule == "features")
    known = Rates(run=rates, measured={"features/efficientnet_lite0": (0.1, 0)})
    assert known.of(work, run).source == "run"  # type: ignore[union-attr]
    short = Rates(run=rates, measured=known.measured, short=frozenset(rates))
    assert short.of(work, run).seconds == 0.1 / 2  # type: ignore[union-attr]  # two threads
    assert Rates(run=rates, measured={}, short=frozenset(rates)).of(work, run).source == "run"  # type: ignore[union-attr]


def test_earlier_run_without_benchmarks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--from: .*does not exist; give the folder in which snakemake ran"):
        planner.earlier(tmp_path, comus())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "many"], "--images: 'many' is not a whole number"),
        (["--images", "0"], "--images: '0' is not a whole number"),
        (["--images", "1.5"], "--images: '1.5' is not a whole number"),
        ([], "give --images, such as 1e8, or --manifest"),
        (["--images", "10", "--recipe", "comsu"], "no recipe 'comsu' (did you mean 'comus'?)"),
        (["--images", "10", "--images-per-second", "feature=3"], "unknown rule 'feature' (did you mean 'features'?)"),
        (["--images", "10", "--images-per-second", "features"], "'features' is not RULE=NUMBER"),
        (["--images", "10", "--images-per-second", "features=-1"], "features: '-1' is not a positive number"),
        (["--images", "10", "--photo", "500"], "--photo: '500' is not WIDTHxHEIGHT"),
        (["--images", "10", "--config", "absent.yaml"], "absent.yaml: no such file"),
        (["--images", "10", "--throughput", "absent.json"], "--throughput: absent.json"),
    ],
)
def test_bad_input_names_key_value_and_way_out(words: list[str], said: str) -> None:
    config = [] if "--config" in words else ["--config", str(ROOT / "config.yaml")]
    done = CliRunner().invoke(app, ["plan", *words, *config, "--recipes", str(ROOT / "recipes")])
    assert done.exit_code == 1
    assert said in str(done.exception)


def test_numbers_and_rates_as_they_are_written(tmp_path: Path) -> None:
    assert (whole("1e8", "--images"), whole("250_000", "--images"), photo_size("640x272")) == (
        10**8,
        250_000,
        (272, 640),
    )
    (tmp_path / "t.json").write_text('{"features": 120, "cut/comus": 9.5}')
    assert read_given(tmp_path / "t.json", ["features=80"]) == {"features": 80.0, "cut/comus": 9.5}
    assert text.size(131e12) == "131 TB"
    assert text.size(812) == "812 B"


def test_size_changes_every_set_and_keeps_its_rule(tmp_path: Path) -> None:
    config = {"recipes": ["comus"], "features": {"grouping": {"size": {"short_side": 480}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = planner.configured(tmp_path / "config.yaml", ROOT / "recipes", size=518, shard_size=1000)
    sizes = {name: fs.size for name, fs in run.recipes["comus"].features.items()}
    assert sizes == {"grouping": Size(short_side=518), "semantic": Size(square=518)}
    assert run.config.inputs.shard_size == 1000


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_recipe_is_planned(name: str) -> None:
    run, images = load({"recipes": [name]}, ROOT / "recipes"), of_one_size(1000, 100, PHOTO)
    found = {work.rule for work in planned_jobs(run, images)}
    assert {"features", "cluster_fit", "paint"} <= found or run.recipes[name].crops
    assert ("adapt_fit" in found) == (run.recipes[name].adapt is not None)
    assert ("pretrain_fit" in found) == bool(run.recipes[name].trained_sets)
    assert all(work.jobs > 0 for work in planned_jobs(run, images))
    assert all(artefact.bytes > 0 for artefact in artefacts(run, images))


def test_text_says_what_is_not_known() -> None:
    plan = build(comus(), of_one_size(1000, 256, PHOTO), Rates(measured={}), Machines(2, gpus=1))
    page = "\n".join(text.lines(plan))
    assert "1,000 images, 4 shards" in page
    assert "no time is known of inputs" in page
    assert "give --images-per-second" in page


CROPS = """
features:
  grouping: {backbone: vit_small_focus, facet: key, size: {square: 224}}
  semantic: {backbone: efficientnet_lite0, size: {square: 128}}
cut: {features: grouping, method: lost}
regions: {features: semantic, pool: crop_cls, size: 96}
cluster: {clusters: 2}
rounds: {count: 1, student: deeplabv3plus, encoder: semantic}
"""


@pytest.mark.slow
def test_jobs_and_memory_are_those_of_a_dry_run(photos: Path, tmp_path: Path) -> None:
    """Recipes that between them have a job of every rule, two seeds, labels."""
    (tmp_path / "crops.yaml").write_text(CROPS)
    config = {
        "images": str(photos / "images"), "labels": str(photos / "labels"), "preset": "small", "seeds": [0, 1],
        "recipes": [
            "kmeans_whitened", "comus", "cutler", "leopart_cbfe", "stego", "dino", str(tmp_path / "crops.yaml"),
        ],
        "inputs": {"shard_size": 6}, "cluster": {"clusters": 3},  # of twelve images, an object each
        "evaluate": {"objects": True, "linear_probe": True, "linear_probe_online": True, "retrieval": True,
                 "segment_retrieval": True},
    }  # fmt: skip
    done = snakemake(tmp_path, config, "--until", "inputs")
    assert done.returncode == 0, done.stderr
    done = snakemake(tmp_path, config, "--dry-run")
    found = jobs(done)
    images = of_manifest(tmp_path / "results/inputs/manifest.parquet")
    run = planner.configured(tmp_path / "config.yaml", ROOT / "recipes")
    plan: Plan = build(run, images, Rates(), Machines(2))
    assert images.shard_count == 2
    assert {rule: n for rule, n in found.items() if rule not in ("all", "total")} == {
        rule: n for rule, n in plan.by_rule().items() if rule != "inputs"
    }
    asked: dict[str, set[int]] = {}
    for rule, memory in re.findall(r"rule (\w+):.*?mem_mb=(\d+)", done.stdout + done.stderr, re.DOTALL):
        asked.setdefault(rule, set()).add(int(memory))
    mine: dict[str, set[int]] = {}
    for work in planned_jobs(run, images):
        mine.setdefault(work.rule, set()).add(work.memory)
    assert asked.pop("demo", None) is None
    assert asked == {rule: memory for rule, memory in mine.items() if rule != "inputs"}


def test_manifest_gives_shards_and_sizes(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = {"shard": ["a", "a", "b"], "height": [10, 20, 20], "width": [30, 30, 30]}
    write_table(tmp_path / "m.parquet", pa.table(rows))
    images = of_manifest(tmp_path / "m.parquet")
    assert (images.count, images.shard_count, images.largest) == (3, 2, 2)
    assert mixture(images) == {(10, 30): pytest.approx(1 / 3), (20, 30): pytest.approx(2 / 3)}
