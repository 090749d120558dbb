"""Secrets (docs/security.md): what is hidden, in forms and under names that the code does not list one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from input_files import fails, picture, read, rejected

from maskmill.backbones.embedded import cache_folder
from maskmill.errors import ConfigError, InputError, WeightsError
from maskmill.inputs._sources import find
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.resolve import load
from maskmill.recipe.scoring import Objects
from maskmill.recipe.sections import Config
from maskmill.redact import redact
from maskmill.urls import is_url

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3tPa55"

# Each %s is a secret.
WRITTEN = [
    # user:password of a URL: as it is, with a slash lost, with an address before it, encoded, escaped, of any scheme
    "https://bob:%s@host/a.jpg", "https:/bob:%s@host/a.jpg", "/work/here/https:/bob:%s@host/a.jpg",
    "HTTPS://BOB:%s@HOST/a.jpg", "https://%s@github.com/a/b.git", "http:/%s@host/a.jpg", "sftp://bob:%s@host:22/a",
    "https%%3A%%2F%%2Fbob%%3A%s%%40host%%2Fa.jpg", "https%%253A%%252F%%252Fbob%%253A%s%%2540host",
    r"https:\/\/bob:%s@host\/a.jpg", r"https:\\bob:%s@host\a.jpg", "postgresql+psycopg://u:%s@db/x", "redis://:%s@host",
    "https://u:p@%s@host/x", "https://u:%s/rest@host/x", "s3:/%s@bucket/key", "bob:%s@example.org/a.jpg",
    "jdbc:postgresql://u:%s@db/x", "weird+scheme://u:%s@h", "error: <https://bob:%s@host>, see above",
    # queries and fragments: of presigned addresses, and under names that nobody listed
    "https://b.s3.amazonaws.com/k?X-Amz-Credential=%s/2026/us/s3/aws4_request&X-Amz-Signature=%s&X-Amz-Security-Token=%s",
    "https://x.blob.core.windows.net/c/a.jpg?sv=2020&se=2026-01-01&sr=b&sp=r&sig=%s", "https://h/?AWSAccessKeyId=%s",
    "https://storage.googleapis.com/b/k?X-Goog-Signature=%s", "https://h/a;jsessionid=%s?x=1", "https://h/#id_token=%s",
    "https%%3A%%2F%%2Fhost%%2Fa.jpg%%3Ftoken%%3D%s", "a.jpg?access_token=%s&b=1", "https:/host/a.jpg?whatever=%s",
    "https://h/a?apiKey=%s", "gs://b/k?user-key=%s", "h/a?hdnts=1&auth=%s", "https://h/cb?code=%s",
    # headers, options, assignments, connection strings, netrc
    "Authorization: Bearer %s", "{'Authorization': 'Basic %s'}", "Proxy-Authorization: Digest %s", "authorization=%s",
    "X-Api-Key: %s", "PRIVATE-TOKEN: %s", "x-goog-iam-authorization-token: %s", "Cookie: %s", "got bearer %s again",
    "password=%s dbname=x", "PGPASSWORD=%s psql", '{"password": "%s"}', "'db_password': '%s'", '{"api_key": "%s"}',
    "--password %s", "--api-key=%s", "--hf-token %s", "Server=x;Uid=y;Pwd=%s;", "AccountKey=%s==;EndpointSuffix=x",
    "SharedAccessKey=%s", "machine h login me password %s", "export MY_SERVICE_TOKEN=%s", "secret: '%s'",
]  # fmt: skip

FORMS = [
    "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "ghp_abcdefghij0123456789abcdefghij012345", "gho_0123456789abcdef",
    "github_pat_11ABCDEFG0aaaaaaaaaaaa_bbbb", "glpat-abcdefghij0123456789", "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "xoxb-123456789012-abcdef", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_", "dckr_pat_abcDEF0123456789",
    "sk-proj-abcdefghijklmnop0123", "sk_live_abcdefghij0123", "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234",
    "nvapi-AbCdEf0123456789AbCdEf0123456789xyz", "ya29.a0AfH6SMBx-abcdef", "npm_abcdefghijklmnop0123456789",
    "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAw", "newvendor_Zz09Yy18Xx27Ww36Vv45Uu54Tt63Ss",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----",
]  # fmt: skip

ORDINARY = [
    "/data/tokens/key_frames/img=3.jpg", "/data/secret_garden/a.jpg", "secret_garden=3", "monkey=1", "a?monkey=1.png",
    "/data/img?keyframe=3.png", "cut.tokens: 400", "max_tokens=4000000", "pass_count=12345678", "compass=north12345",
    "key=value1234", "author=smith1234", "tokens: 'abcdefgh'", "cls_token: 'learned'", "/data/token=cls12345/x.jpg",
    "file:///data/img@2x.jpg", "/d/b:/img@2x.png", "/d/2021:10:30@site/x.jpg", "git@host:x/y", "C:\\x://", "a@b.org",
    "https://example.org/a@b", "https://example.org:8080/a@b", "https://h/x?b=1&w=640&fmt=jpg", "the bearer of images",
    "data:image/png;base64,aa==", "/data/password_photos/a.jpg", "/data/api_keys/1.png",
    "photo-1506744038136-46273834b3fb", "features.semantic.facet: 'key'", "key_bias: 'subtract', found 'x'",
    "config.yaml: password: unknown key",
    "results/features/vit_small_patch16_224_dino-token-sq448-a1b2c3/s0123456789.zarr", "IMG_20210101_123456.jpg",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "sk-learn-models_of_everything",
    "vit_base_patch16_224.augreg2_in21k_ft_in1k", "ADE_val_00001234.png", "n02119789_12345.JPEG",
    "ASIACONTINENTPHOTOS", "key_photographsofcatsanddogs.jpg", "hf_images/hf_hub.jpg",
    "{'method': 'ncut', 'tau': 0.2, 'query': 'x1234567890'}",
]  # fmt: skip

ENVIRONMENT = {
    "PGPASSWORD": "hunter2", "MYSQL_PWD": "geheim!", "SSHPASS": "letmein", "GITHUB_PAT": "abcd1234efgh",
    "MY_AUTH": "user1:pw", "DATABASE_URL": "postgres://u:dbpass99@h/x", "BROKER": "amqp://u:rabb1tmq@h",
    "HF_TOKEN": "t" * 12, "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPx",
    "WANDB_API_KEY": "0123456789abcdef0123", "MY_SAS": "sv=2020&sig=a0b1",
    "DOCKER_AUTH_CONFIG": '{"auths":{"r.io":{"auth":"dXNlcjpwYXNzd29yZA=="}}}',
    "CONN": "host=h password=conn5tring dbname=d",
    "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=photos;AccountKey=QUJDREVG0123==",
    "SENTRY_DSN": "https://abcdef0123@sentry.io/1", "NETRC_BODY": "machine h login me password netrcpw1",
    "githubToken": "gtoken123456", "PIP_INDEX_URL": "https://me:p%40ss%2Fw0rd@index/simple",
    "RSYNC_PASSPHRASE": "opensesame",
    # and what is no secret
    "PWD": str(Path.cwd()), "OLDPWD": "/somewhere/else", "SSH_AUTH_SOCK": "/", "TOKENIZERS_PARALLELISM": "false",
    "HOME": "/home/someone-somewhere", "XKB_KEYBOARD": "qwertz-layout-long", "SHORT_TOKEN": "on",
    "PUBLIC_URL": "https://host-name/x",
}  # fmt: skip
HIDDEN_VALUES = [
    "hunter2", "geheim!", "letmein", "abcd1234efgh", "user1:pw", "dbpass99", "rabb1tmq", "t" * 12,
    "wJalrXUtnFEMI/K7MDENG+bPx", "wJalrXUtnFEMI%2FK7MDENG%2BbPx", "0123456789abcdef0123", "sv=2020&sig=a0b1",
    "dXNlcjpwYXNzd29yZA==", "conn5tring", "QUJDREVG0123==", "abcdef0123", "netrcpw1", "gtoken123456",
    "p%40ss%2Fw0rd", "p@ss/w0rd", "opensesame",
]  # fmt: skip
SHOWN_VALUES = [str(Path.cwd()), "/somewhere/else", "false", "/home/someone-somewhere", "qwertz-layout-long", "photos",
                "https", "host-name", "dbname"]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_secrets_by_their_place(written: str) -> None:
    text = written % ((SECRET,) * written.replace("%%", "").count("%s"))
    for around in (text, f"maskmill inputs: error: {text}: no such file", f'File "x.py", line 3\n    {text}\n'):
        assert SECRET in around
        assert SECRET not in redact(around, {})


@pytest.mark.parametrize("secret", FORMS)
def test_secrets_by_their_form(secret: str) -> None:
    assert redact(f"x {secret} y", {}) == "x *** y"
    assert secret not in redact(f"/data/{secret}/a.jpg", {})


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, {}) == text


@pytest.mark.parametrize("value", HIDDEN_VALUES)
def test_secrets_of_the_environment(value: str) -> None:
    assert value not in redact(f"error at {value}: x", ENVIRONMENT)


@pytest.mark.parametrize("value", SHOWN_VALUES)
def test_what_the_environment_does_not_hide(value: str) -> None:
    assert value in redact(f"error at {value}: x", ENVIRONMENT)


def test_redaction_stays_fast_on_any_text() -> None:
    """Patterns that backtrack over the whole text would take minutes here: the work is counted, not timed."""
    for text in ("a." * 20_000, "https://" * 5000, "https://" + "a@" * 20_000, "a:" * 20_000, "%" * 40_000):
        assert len(redact(text, {})) <= len(text)


URLS = [
    "https://h/a.jpg", "HTTP://h", " https://h", "https:/h", "s3://b/k", "simplecache::s3://b", '"https://h"',
    "<ftp://h>", "https%3A%2F%2Fh", "data:image/png;base64,aa", "file:///x", "hf://datasets/x", "https:\\\\h",
    "gs:/b/k", "\ufeffhttps://h", "abfss://c@a/x", "postgresql+psycopg2://u@h", "jar:file:///x",
]  # fmt: skip
PATHS = ["/data/https:/x", "a:b/c", "C:\\x", "./https:/x", "data/x.jpg", "2021:10/x.jpg", "host:/path", "a/b://c",
         "data:", "s3/x", "https_photos/a", "", "é:/x", "*.jpg", "data/**/x?.png"]  # fmt: skip


def test_what_is_a_url() -> None:
    assert [url for url in URLS if not is_url(url)] == []
    assert [path for path in PATHS if is_url(path)] == []


URL = f"https://bob:{SECRET}@host/a.jpg?token={SECRET}&whatever={SECRET}"


@pytest.mark.parametrize("url", [URL, URL.replace("//", "/"), f' "{URL}"', URL.replace("https", "S3"), f"x::{URL}"])
def test_files_of_the_configuration_are_no_urls(url: str) -> None:
    bodies: list[tuple[Any, dict[str, Any]]] = [
        (Config, {"images": url}), (Config, {"labels": url}), (FeatureSet, {"backbone": url}),
        (Objects, {"instances": url}), (FeatureSet, {"backbone": "resnet10t", "checkpoint": url}),
    ]  # fmt: skip
    for model, body in bodies:
        with pytest.raises(ConfigError, match="is a URL, but only files of this machine") as told:
            validate(model, body, "config.yaml")
        assert SECRET not in str(told.value)
    for given in (url, f"{url}.yaml"):
        with pytest.raises(ConfigError, match=r"recipes: .* is a URL") as told:
            load({"recipes": [given]}, ROOT / "recipes")
        assert SECRET not in str(told.value)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("url", [URL, URL.replace("//", "/"), URL.replace("https", "gs")])
def test_urls_in_a_table_of_images(tmp_path: Path, kind: str, url: str) -> None:
    out, file = tmp_path / "work", tmp_path / f"t.{kind}"

    def write(**columns: list[str]) -> None:
        table = pd.DataFrame(columns)
        table.to_parquet(file) if kind == "parquet" else table.to_csv(
            file, sep="\t" if kind == "tsv" else ",", index=False
        )

    picture(tmp_path / "a.png")
    write(path=["a.png", url, url])
    assert read(out, file, max_rejected=0.9).ids == ["a"]
    assert [row["reason"].split(",")[0] for row in rejected(out)] == ["is a URL"] * 2
    assert [row["id"] for row in rejected(out)] == ["url of row 2", "url of row 3"]
    told = [fails(out, file, "2 of 3 are unreadable.*is a URL")]
    write(path=["a.png", "b.png"], id=["a", url])
    told.append(fails(out, file, "id .* is a URL"))
    write(path=["a.png"], label=[url])
    told.append(fails(out, file, "label .* is a URL"))
    write(path=["a.png"])
    labels = tmp_path / "l.csv"
    pd.DataFrame({"path": ["a.png"], "label": [url]}).to_csv(labels, index=False)
    told.append(fails(out, file, "label .* is a URL", labels))
    write(**{url: ["a.png"]})
    told.append(fails(out, file, "no column 'path'"))
    with pytest.raises(InputError, match=r"images: .* is a URL") as refused:
        find(url, None, tmp_path, 1, 10**6)
    written = [path.read_text() for path in out.glob("*.csv")]
    assert len(written) == 2
    assert SECRET not in "".join([*told, *written, str(refused.value)])


def test_a_secret_in_the_name_of_a_rejected_file(tmp_path: Path) -> None:
    """No URL, but with the query of one: a file as a careless download names it."""
    picture(tmp_path / "images/a.png")
    (tmp_path / f"images/x.jpg?token={SECRET}.jpg").write_text("no image")
    read(tmp_path / "out", tmp_path / "images", max_rejected=0.9)
    assert SECRET not in (tmp_path / "out/rejected.csv").read_text()


def test_the_cache_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMILL_CACHE", URL)
    with pytest.raises(WeightsError, match=r"MASKMILL_CACHE: .* is a URL") as told:
        cache_folder()
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", URL, "--segmenter", "x"],
        ["predict", "x", "--segmenter", URL],
        ["predict", "x", f"--segmenter={URL}"],
        ["doctor", "--config", URL],
        ["plan", "--images", "9", "--recipes", URL],
        ["inputs", "--images", URL, "--params", "{}", "--manifest", "m", "--rejected", "r", "--classes", "c",
        "--frames", "f"], ["rounds-train", "--features", f"semantic={URL}"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_no_option_takes_a_url(tmp_path: Path, arguments: list[str]) -> None:
    line = [sys.executable, "-m", "maskmill", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: 'https://***@host/a.jpg?token=***&whatever=***' is a URL, but only files" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_snakemake_prints_no_secret(tmp_path: Path) -> None:
    """Of a URL on its command line, in its configuration, and of the environment in a message of ours."""
    base = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--cores", "1"]
    environment = os.environ | {"TEAM_PAT": "geheim0123456789", "PGPASSWORD": "hunter2"}
    for config in (f"images={URL}", f"labels={URL}", f"recipes={URL}", "recipes=geheim0123456789", "recipes=hunter2",
                   "images={'password': 'hunter2'}"):  # fmt: skip
        done = subprocess.run(
            [*base, "--config", config], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert done.returncode == 1
        assert "***" in done.stdout + done.stderr
        for secret in (SECRET, "geheim0123456789", "hunter2"):
            assert secret not in done.stdout + done.stderr
