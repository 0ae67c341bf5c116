"""Imports go one way. A module imports only from layers below its own, so a file can be read knowing those alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("service",),  # the version
    ("service.errors", "service.settings", "service.metrics", "service.logs"),
    (
        "service.engine",
        "service.scheduler",
        "service.repository",
        "service.rollout",
        "service.processes",
        "service.http",
    ),  # nothing but a docstring
    ("service.engine.allocator", "service.engine.batch", "service.engine.memory", "service.engine.processor"),
    ("service.engine.tokenizer", "service.engine.session"),
    (
        "service.tasks.spec",
        "service.tasks.inputs",
        "service.tasks.spans",
        "service.tasks.words",
        "service.tasks.difference",
    ),
    ("service.tasks.truth",),
    ("service.tasks.task",),
    ("service.tasks.texts", "service.tasks.multiple_choice", "service.tasks.span"),
    ("service.tasks.classification", "service.tasks.score"),
    ("service.tasks.multi_label", "service.tasks.zero_shot", "service.tasks.rerank"),
    ("service.tasks",),
    ("service.cache", "service.drift"),
    ("service.scheduler.quota",),
    ("service.scheduler.permits", "service.scheduler.queue"),
    ("service.scheduler.batcher", "service.scheduler.worker"),
    ("service.scheduler.background",),
    ("service.scheduler.workers",),
    ("service.repository.files",),
    ("service.repository.manifest", "service.repository.versions"),
    ("service.repository.bundle", "service.repository.plan"),
    ("service.repository.opening", "service.repository.installing", "service.repository.golden"),
    ("service.serving",),
    ("service.predictor",),
    ("service.traces",),
    ("service.repository.sources.reference", "service.repository.sources.transfer"),
    (
        "service.repository.sources.archive",
        "service.repository.sources.cache",
        "service.repository.sources.stores",
        "service.repository.sources.web",
    ),
    ("service.repository.sources.hub", "service.repository.sources.incoming"),
    ("service.repository.sources.registry",),
    ("service.repository.sources",),
    ("service.repository.loading",),
    ("service.rollout.aside", "service.rollout.canary", "service.rollout.fitness"),
    ("service.rollout.intervals", "service.rollout.disagreements", "service.rollout.recent"),
    ("service.rollout.comparison",),
    ("service.rollout.shadow", "service.rollout.rule"),
    ("service.rollout.observer",),
    ("service.rollout.rollouts",),
    ("service.processes.placement", "service.processes.board", "service.processes.merging"),
    ("service.processes.acceptor", "service.processes.shared", "service.processes.member"),
    ("service.processes.supervisor",),
    ("service.inprocess.model",),
    ("service.inprocess.pipeline",),
    (
        "service.inprocess.multiple_choice",
        "service.inprocess.question_answering",
        "service.inprocess.scoring",
        "service.inprocess.text_classification",
    ),
    ("service.inprocess",),
    ("service.keys",),
    ("service.keys.entries",),
    ("service.keys.keyring", "service.keys.editing"),
    ("service.scoring", "service.scoring.errors"),
    ("service.scoring.lines", "service.scoring.storage", "service.scoring.answers", "service.scoring.progress"),
    ("service.scoring.readers", "service.scoring.fields"),
    ("service.scoring.writers",),
    ("service.scoring.plan",),
    ("service.scoring.part",),
    ("service.scoring.run", "service.scoring.cluster"),
    ("service.http.problems", "service.http.pages", "service.http.body"),
    ("service.http.requests", "service.http.answers", "service.http.context"),
    ("service.http.endpoints",),
    ("service.http.openapi", "service.http.protocol", "service.http.gate"),
    ("service.http.routes", "service.http.admin", "service.http.compare"),
    ("service.protocols.own", "service.protocols.info", "service.protocols.scores", "service.protocols.tensors"),
    ("service.protocols.pipelines", "service.protocols.instances"),
    (
        "service.protocols.huggingface",
        "service.protocols.tei",
        "service.protocols.classify",
        "service.protocols.oip",
        "service.protocols.kserve",
        "service.protocols.sagemaker",
        "service.protocols.vertex",
    ),
    ("service.protocols.rerank", "service.protocols.oip_messages"),
    ("service.protocols.oip_grpc",),
    ("service.protocols",),
    ("service.app",),
    ("service.on_ray",),
    ("service.server",),
    ("service.grpc_server",),
    ("service.several",),
    ("service.commands.keys", "service.commands.models"),
    ("service.commands",),
    ("service.commands.score",),
    ("service.program",),
    ("service.__main__",),
)
"""Bottom up. A new module wants a place here."""
ROOMS: tuple[tuple[str, ...], ...] = (
    ("training", "training.errors"),
    ("training.files", "training.folders", "training.recipe"),
    ("training.data",),
    ("training.tokenizers",),
    ("training.checkpoints", "training.tasks"),
    ("training.evaluate",),
    ("training.finetune", "training.pretrain", "training.export", "training.doctor"),
    ("training.__main__",),
)
"""Training's rooms, bottom up. Rooms side by side do not know one another."""
UP = {("service", "service.inprocess")}
"""The one way up: `service.load` imports what it opens a bundle with when it is called."""
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}

HTTP = LEVEL["service.http.body"]
"""From this layer up, modules may know of HTTP."""
SEAMS = {
    "onnxruntime": {"service.engine.session"},
    "tokenizers": {"service.engine.tokenizer"},
    "pydantic_settings": {"service.settings"},
    "pydantic": {
        "service.settings",
        "service.drift",
        "service.tasks.spec",
        "service.tasks.inputs",
        "service.tasks.classification",
        "service.tasks.multiple_choice",
        "service.tasks.rerank",
        "service.tasks.score",
        "service.tasks.span",
        "service.tasks.texts",
        "service.tasks.truth",
        "service.tasks.zero_shot",
        "service.repository.golden",
        "service.repository.manifest",
        "service.repository.plan",
        "service.inprocess.pipeline",
        "service.keys.entries",
        "service.scoring.fields",
        "service.http.problems",
        "service.http.requests",
        "service.http.answers",
        "service.http.compare",
        "service.rollout.comparison",
        "service.http.admin",
        "service.http.endpoints",
        "service.http.openapi",
        "service.protocols.classify",
        "service.protocols.huggingface",
        "service.protocols.info",
        "service.protocols.instances",
        "service.protocols.oip",
        "service.protocols.own",
        "service.protocols.pipelines",
        "service.protocols.rerank",
        "service.protocols.tei",
        "service.protocols.tensors",
        "service.program",
    },
    "fsspec": {"service.repository.sources.stores", "service.scoring.storage"},
    "pyarrow": {"service.scoring.readers", "service.scoring.writers", "service.scoring.plan"},
    "ray": {"service.scoring.cluster", "service.on_ray"},
    "opentelemetry": {"service.traces"},
    "grpc": {"service.grpc_server"},
    "google": {"service.protocols.oip_grpc", "service.protocols.oip_messages"},
    "uvicorn": {"service.server", "service.http.protocol", "service.http.gate", "service.processes.member"},
    "httptools": {"service.http.protocol"},
    "tomlkit": {"service.keys.editing"},
    "httpx2": {"service.repository.sources.web"},
    "uvloop": {"service.program", "service.several"},
    "prometheus_client": {
        "service.metrics",
        "service.logs",
        "service.serving",
        "service.processes.merging",
        "service.processes.member",
        "service.http.gate",
        "service.http.routes",
    },
}
"""Libraries that only these modules know."""
FORBIDDEN = {"training", "torch", "transformers", "datasets", "onnx", "sentencepiece", "accelerate"}
"""What the service does without."""


def modules(package: str) -> dict[str, Path]:
    """Paths of a package's modules by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SERVICE, TRAINING = modules("service"), modules("training")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, under whatever condition."""
    return imports_of(path.read_text(encoding="utf-8"))


def imports_of(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which layer is meant"
            module = node.module or ""
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                names.add(submodule if submodule in SERVICE | TRAINING else module)
    return names


def test_every_module_has_a_layer() -> None:
    assert set(SERVICE) == set(LEVEL)


@pytest.mark.parametrize("module", SERVICE)
def test_a_module_imports_only_from_below(module: str) -> None:
    for name in imports(SERVICE[module]):
        if name in LEVEL:
            below = LEVEL[name] < LEVEL[module] or (module, name) in UP
            assert below, f"{module} imports {name}, which is not below it"
        else:
            assert not name.startswith("service.")


@pytest.mark.parametrize("module", SERVICE)
def test_libraries_stay_behind_their_seams(module: str) -> None:
    for name in imports(SERVICE[module]):
        library = name.partition(".")[0]
        assert library not in FORBIDDEN, f"{module} imports {name}"
        assert module in SEAMS.get(library, {module}), f"{module} imports {name}"
        if library in ("fastapi", "starlette"):
            assert LEVEL[module] >= HTTP, f"{module} knows of HTTP"


def room_of(module: str) -> str:
    rooms = {name for names in ROOMS for name in names}
    return next(name for name in (module, ".".join(module.split(".")[:2])) if name in rooms)


@pytest.mark.parametrize("module", TRAINING)
def test_a_room_of_training_imports_only_from_below(module: str) -> None:
    """So pre-training, for one, knows nothing of fine-tuning."""
    level = {name: height for height, names in enumerate(ROOMS) for name in names}
    room = room_of(module)
    for name in imports(TRAINING[module]) & TRAINING.keys():
        other = room_of(name)
        assert other == room or level[other] < level[room], f"{module} imports {name}"


@pytest.mark.parametrize("room", ["engine", "scheduler"])
def test_neither_engine_nor_scheduler_knows_a_task(room: str) -> None:
    for module, path in SERVICE.items():
        if module.startswith(f"service.{room}"):
            assert not [name for name in imports(path) if name.startswith("service.tasks")], module


def test_every_seam_is_where_it_is_said_to_be() -> None:
    """A module that no longer imports a library has no place on its list."""
    used = {(name.partition(".")[0], module) for module, path in SERVICE.items() for name in imports(path)}
    assert {(library, module) for library, known in SEAMS.items() for module in known} <= used


@pytest.mark.parametrize("module", TRAINING)
def test_training_knows_nothing_of_http(module: str) -> None:
    for name in imports(TRAINING[module]):
        assert LEVEL.get(name, 0) < HTTP, f"{module} imports {name}"
        assert name.partition(".")[0] not in ("tests", "bench", "fastapi", "starlette", "uvicorn", "httptools")


def test_imports_are_seen_wherever_they_stand() -> None:
    """The net has no holes: what it would miss, the tests above would pass."""
    source = (
        "import service.engine.session as e\n"
        "from service import app, __version__\n"
        "def f():\n    from service.tasks import SpanTask\n    import torch.nn\n"
        "if TYPE_CHECKING:\n    from service.predictor import Predictor\n"
    )
    assert imports_of(source) == {
        "service.engine.session",
        "service.app",
        "service",
        "service.tasks",
        "torch.nn",
        "service.predictor",
    }


def test_importing_the_service_imports_nothing() -> None:
    """What `from service import load` costs is paid by who calls `load`."""
    program = "import sys; had = set(sys.modules); from service import load; print(sorted(set(sys.modules) - had))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    names = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert names - sys.stdlib_module_names == {"service"}, done.stderr


def test_the_service_runs_without_torch() -> None:
    """Not by its own imports alone: nothing that it imports may bring them in either."""
    program = (
        "import sys, service.app, service.inprocess, service.__main__\n"
        f"print(sorted({FORBIDDEN!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
