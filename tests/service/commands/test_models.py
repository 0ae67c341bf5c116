"""`python -m service models`: a plain line for what was done, one on the standard error for what cannot be."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.commands import models
from service.repository import files, plan, versions
from service.repository.files import MANIFEST
from service.repository.plan import PLAN, Canary, Plan, Rule, Shadow
from tests.bundles import add_golden, change_file, change_manifest, make_bundle

Run = Callable[..., str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A bundle called `sentiment`."""
    return make_bundle(tmp_path / "new", "sentiment")


@pytest.fixture
def folder(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """The folder of the model `sentiment`, with versions 1 (stable) to 3, in the folder of the settings."""
    monkeypatch.setenv("BERTIE_MODELS_DIR", str(tmp_path / "models"))
    for _ in range(3):
        run("add", "sentiment", str(source))
    return tmp_path / "models/sentiment"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("list")`: what the command prints; it must succeed."""

    def run(*arguments: str) -> str:
        status = models.main(arguments)
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """`refused("remove", ...)`: the line that says why not."""

    def refused(*arguments: str) -> str:
        status = models.main(arguments)
        out, err = capsys.readouterr()
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("models: ")
        return err.removeprefix("models: ").rstrip("\n")

    return refused


# ---- list -----------------------------------------------------------------------------------------------------------


def test_list(folder: Path, run: Run) -> None:
    qa = make_bundle(folder.parent, "qa")
    digests = [versions.list_versions(qa)[0].name, files.digest((folder / "1" / MANIFEST).read_bytes())]
    run("promote", "sentiment", "2")
    run("canary", "sentiment", "3", "--percent", "2.5")
    run("shadow", "sentiment", "3", "--percent", "10")
    lines = [line.split("  ") for line in run("list").splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    size = f"{sum(path.stat().st_size for path in (folder / '1').iterdir()) / 1e6:.1f}"
    common = ["classification", "fp32", size, "2025-01-01", digests[1]]
    assert cells == [
        ["model", "version", "roles", "task", "precision", "MB", "created", "digest"],
        ["qa", digests[0], "stable", "span", "fp32", size, "2025-01-01", digests[0]],
        ["sentiment", "1", "previous", *common],
        ["sentiment", "2", "stable", *common],
        ["sentiment", "3", "canary 2.5%, shadow 10%", *common],
    ]
    assert [line.split()[0] for line in run("list", "qa").splitlines()] == ["model", "qa"]


def test_list_as_json(folder: Path, run: Run) -> None:
    size = sum(path.stat().st_size for path in (folder / "1").iterdir())
    digest = files.digest((folder / "1" / MANIFEST).read_bytes())
    rows = json.loads(run("list", "sentiment", "--json"))
    assert rows[0] == {
        "model": "sentiment",
        "version": "1",
        "roles": ["stable"],
        "task": "classification",
        "precisions": ["fp32"],
        "bytes": size,
        "created": "2025-01-01",
        "digest": digest,
    }
    assert [(row["version"], row["roles"]) for row in rows[1:]] == [("2", []), ("3", [])]


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda one: (one / MANIFEST).write_text("{"), "Expecting"),
        (lambda one: (one / MANIFEST).write_text("[]"), "list indices"),
        (lambda one: (one / MANIFEST).write_bytes(b"\xff"), "decode"),
        (lambda one: change_manifest(one, task=None), "its manifest has no 'task'"),
        (lambda one: change_manifest(one, task=3), "'int'"),
        (lambda one: change_manifest(one, task="\x1b[2J"), "is no plain text"),
        (lambda one: (one / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    ],
)
def test_list_shows_the_others_where_one_is_broken(
    folder: Path, break_: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_(folder / "1")
    assert models.main(["list"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["sentiment", "2"], ["sentiment", "3"]]
    assert err.startswith("models: sentiment 1: its bundle cannot be read: ")
    assert said in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_list_shows_the_versions_where_the_plan_is_broken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / PLAN).write_text("{")
    assert models.main(["list"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [["sentiment", n, "classification"] for n in "123"]
    assert err.startswith("models: model 'sentiment': rollout.json: ")


def test_list_imports_nothing_heavy(folder: Path) -> None:
    """With numpy, tokenizers, ONNX Runtime and FastAPI it would take four times as long."""
    program = (
        "import sys; from service.__main__ import main; status = main(['models', 'list'])\n"
        "print({'numpy', 'tokenizers', 'onnxruntime', 'fastapi', 'prometheus_client'} & set(sys.modules), status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set() 0", done.stderr


def test_a_reader_that_has_gone_is_met_with_silence(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "service", "models", "list"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_the_folder_is_models_or_the_settings_or_the_options(
    source: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("add", "sentiment", "new/sentiment")
    monkeypatch.setenv("BERTIE_MODELS_DIR", "")
    run("add", "sentiment", "new/sentiment")
    monkeypatch.setenv("BERTIE_MODELS_DIR", "theirs")
    run("add", "sentiment", "new/sentiment")
    run("add", "sentiment", "new/sentiment", "--models-dir", "ours")
    found = {name: len(versions.list_versions(tmp_path / name / "sentiment")) for name in ("models", "theirs", "ours")}
    assert found == {"models": 2, "theirs": 1, "ours": 1}


# ---- add, remove ----------------------------------------------------------------------------------------------------


def test_add(tmp_path: Path, source: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTIE_MODELS_DIR", str(tmp_path / "models"))
    assert run("add", "sentiment", str(source)) == "sentiment: version 1 added; it is stable\n"
    said = run("add", "sentiment", str(source))
    assert said == ("sentiment: version 2 added; it answers nothing yet: promote it, or try it as canary or shadow\n")
    monkeypatch.chdir(source)
    assert run("add", "sentiment", ".", "--version", "v3").startswith("sentiment: version v3 added; it answers nothing")


def test_add_from_elsewhere(
    tmp_path: Path, source: Path, run: Run, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTIE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("BERTIE_CACHE_DIR", str(tmp_path / "cache"))
    digest = hashlib.sha256((source / "manifest.json").read_bytes()).hexdigest()
    added = run("add", "sentiment", f"file://{source}#sha256={digest}")
    assert added == "sentiment: version 1 added; it is stable\n"
    assert "sha256" in refused("add", "sentiment", f"file://{source}#sha256={'0' * 64}")


def test_add_refuses(folder: Path, source: Path, refused: Run) -> None:
    assert refused("add", "sentiment", "/absent") == "there is no folder '/absent': give the folder of a bundle"
    assert refused("add", "sentiment", str(folder)) == "bundle 'sentiment': manifest.json is missing"
    assert "has a version '2' already" in refused("add", "sentiment", str(source), "--version", "2")
    assert "is no name for a version" in refused("add", "sentiment", str(source), "--version", "../4")
    assert "is no name for a model" in refused("add", "..", str(source))
    assert "is no name for a model" in refused("add", "a\nb", str(source))
    assert "calls itself 'sentiment'" in refused("add", "mood", str(source))
    change_file(source, "model.fp32.onnx", b"")
    (source / "model.fp32.onnx").write_bytes(b"other")
    assert refused("add", "sentiment", str(source)).startswith("bundle 'sentiment': model.fp32.onnx has sha256")


def test_remove(folder: Path, run: Run, refused: Run) -> None:
    assert run("remove", "sentiment", "3") == "sentiment: version 3 removed\n"
    assert [version.name for version in versions.list_versions(folder)] == ["1", "2"]
    assert refused("remove", "sentiment", "1").startswith("version '1' is stable: promote another one first")
    assert refused("remove", "sentiment", "3") == "model 'sentiment' has no version '3'; it has 1, 2"
    assert refused("remove", "sentiment", "../sentiment/2").startswith("model 'sentiment' has no version")
    assert "there is no bundle 'mood'" in refused("remove", "mood", "1")


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_a_rollout_step_by_step(folder: Path, run: Run) -> None:
    assert run("canary", "sentiment", "2", "--percent", "5", "--header", "X-Canary", "--sticky", "X-User") == (
        "sentiment: version 2 is canary: it answers 5 % of the requests and those with X-Canary: true, the same for "
        "the same X-User; version 1 is stable\n"
    )
    assert run("shadow", "sentiment", "2", "--percent", "10") == (
        "sentiment: version 2 is shadow: it runs 10 % of what version 1 answers, and the answers are compared\n"
    )
    assert run("rule", "sentiment", "--compared", "2000", "--agreement", "0.98", "--p95-ratio", "1.2") == (
        "sentiment: when 2000 requests have been compared, the shadow is promoted if agreement >= 0.98 and p95 <= 1.2 "
        "x stable's, else canary and shadow end\n"
    )
    now = plan.read(folder)
    assert now == Plan(
        "1",
        canary=Canary("2", 5, header="X-Canary", sticky="X-User"),
        shadow=Shadow("2", 10),
        rule=Rule(2000, 0.98, 1.2),
    )
    assert run("rule", "sentiment", "--off") == "sentiment: no rule; a person promotes\n"
    assert run("promote", "sentiment") == "sentiment: version 2 is stable; version 1 can come back by rollback\n"
    assert run("canary", "sentiment", "3", "--percent", "0.5") == (
        "sentiment: version 3 is canary: it answers 0.5 % of the requests; version 2 is stable\n"
    )
    assert run("rollback", "sentiment") == "sentiment: version 3 is canary no more; version 2 is stable\n"
    assert run("rollback", "sentiment") == "sentiment: version 1 is stable again, and version 2 no more\n"
    run("shadow", "sentiment", "3", "--percent", "100")
    assert run("end", "sentiment") == "sentiment: shadow 3 ended; version 1 is stable\n"
    assert plan.read(folder) == Plan("1")


def test_the_first_promotion_of_all_has_nothing_to_go_back_to(tmp_path: Path, run: Run) -> None:
    make_bundle(tmp_path / "models", "sentiment", name="sentiment/1")
    (tmp_path / "models/sentiment" / PLAN).write_text('{"stable": "7"}')
    assert run("promote", "sentiment", "1", "--models-dir", str(tmp_path / "models")) == (
        "sentiment: version 1 is stable\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("promote", "sentiment", "9"), "there is no version '9' to be stable; there are 1, 2, 3"),
        (("promote", "sentiment", "1"), "version '1' is stable already"),
        (("promote", "sentiment"), "there is neither a canary nor a shadow to promote: say which version"),
        (("promote", "mood", "1"), "there is no bundle 'mood' in"),
        (("promote", "../sentiment", "1"), "there is no bundle '../sentiment' in"),
        (("rollback", "sentiment"), "there is no version to go back to"),
        (("canary", "sentiment", "9", "--percent", "5"), "there is no version '9' to be canary"),
        (("canary", "sentiment", "2", "--percent", "500"), "percent: Input should be less than or equal to 100"),
        (("canary", "sentiment", "2", "--percent", "nan"), "percent: "),
        (("canary", "sentiment", "2", "--percent", "5", "--header", "X: y"), "header: "),
        (("canary", "sentiment", "1", "--percent", "5"), "version '1' is stable: it cannot be canary too"),
        (("shadow", "sentiment", "1\n", "--percent", "5"), "version: "),
        (("end", "sentiment"), "there is neither a canary nor a shadow to end"),
        (("rule", "sentiment", "--agreement", "98"), "agreement: Input should be less than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, arguments: tuple[str, ...], said: str, refused: Run) -> None:
    before = plan.read(folder)
    assert refused(*arguments).startswith(said)
    assert plan.read(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [(), ("grow",), ("add", "sentiment"), ("canary", "sentiment", "2"), ("shadow", "sentiment", "2", "--percent", "x")],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as exit_:
        models.main(arguments)
    assert exit_.value.code == 2


# ---- verify ---------------------------------------------------------------------------------------------------------


def spoil_golden(version: Path) -> None:
    add_golden(version, {"text": "good"})
    change_manifest(version, temperature=9.0)


def test_verify(folder: Path, run: Run) -> None:
    assert run("verify", "sentiment", "2") == (
        "sentiment: version 2 is whole: 2 files have their hashes, model.fp32.onnx runs on cpu, it has no golden rows "
        "for fp32\n"
    )
    add_golden(folder / "2", {"text": "good"}, {"text": "bad"})
    assert run("verify", "sentiment", "2").endswith("runs on cpu, 2 golden rows agree\n")
    assert [line.split(" is ")[0] for line in run("verify", "sentiment").splitlines()] == [
        f"sentiment: version {n}" for n in "123"
    ]


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda one: (one / "tokenizer.json").write_bytes(b"{}"), "bundle 'sentiment/2': tokenizer.json has sha256"),
        (lambda one: change_file(one, "model.fp32.onnx", b"no graph"), "is no graph that ONNX Runtime can run"),
        (lambda one: change_file(one, "tokenizer.json", b"{}"), "its tokenizer or task cannot be used"),
        (lambda one: change_manifest(one, labels=["a", "b", "c"]), "gives (2,) numbers a row where"),
        (spoil_golden, "of golden.json: the expected logits come to another answer"),
        (lambda one: change_manifest(one, name="mood"), "bundle 'sentiment/2' calls itself 'mood': move it to mood/2"),
    ],
)
def test_verify_says_which_version_is_broken_and_goes_on(
    folder: Path, break_: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_(folder / "2")
    assert models.main(["verify", "sentiment"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[2] for line in out.splitlines()] == ["1", "3"]
    assert err.startswith("models: sentiment 2: ")
    assert said in err
    assert err.count("\n") == 1


# ---- the program ----------------------------------------------------------------------------------------------------


def test_the_program_runs_it(folder: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))

    assert run("models", "promote", "sentiment", "2").stdout.startswith("sentiment: version 2 is stable")
    done = run("models", "promote", "sentiment", "2")
    assert (done.returncode, done.stderr) == (1, "models: version '2' is stable already\n")
    assert run("models").returncode == 2
    assert "models" in run("--help").stdout
