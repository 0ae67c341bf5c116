"""The path of a request: encode, queue, run, decode; which model answers; loading and draining."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service import predictor as predict
from service.engine.batch import Batch
from service.engine.session import Engine, Outputs
from service.errors import (
    BundleError,
    ConfigurationError,
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    NotReady,
    TooLarge,
    UnknownModel,
)
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository import loading
from service.repository.bundle import MANIFEST
from service.settings import Settings
from service.tasks import (
    ClassificationExample,
    ClassificationTask,
    MultipleChoiceExample,
    SpanExample,
    SpanTask,
    ZeroShotExample,
)
from tests.engines import FakeEngine, load_with, until

SECONDS = 10.0
LONG = "the city is big. " * 400
"""Text past what is tokenised on the event loop."""


@contextlib.asynccontextmanager
async def serving(settings: Settings, metrics: Metrics, **engines: Engine) -> AsyncIterator[Predictor]:
    """The three bundles, with these engines behind the models of those names."""
    predictor = load_with(**engines)(settings, metrics) if engines else loading.load(settings, metrics)
    try:
        async with asyncio.timeout(60):
            yield predictor
    finally:
        for engine in engines.values():
            if isinstance(engine, FakeEngine):
                engine.gate.set()
        await predictor.drain(5)


@pytest.fixture
async def predictor(settings: Settings, metrics: Metrics) -> AsyncIterator[Predictor]:
    async with serving(settings, metrics) as predictor:
        yield predictor


def asked(predictor: Predictor, name: str, *examples: Any) -> asyncio.Task[predict.Predictions[Any]]:
    model = predictor.models[name]
    return asyncio.create_task(predictor.predict(model, model.task, examples))


# ---- answers --------------------------------------------------------------------------------------------------------


async def test_sentiment(predictor: Predictor) -> None:
    done = await asked(
        predictor, "sentiment", ClassificationExample("a great film"), ClassificationExample("bad, awful")
    )
    assert [answer.label for answer in done.answers] == ["positive", "negative"]
    assert done.rows == 2


async def test_entailment(predictor: Predictor) -> None:
    examples = [
        ClassificationExample("the dog is sleeping", "the dog sleeping"),
        ClassificationExample("the dog is sleeping", "the dog is not sleeping"),
        ClassificationExample("the dog is sleeping", "a man wrote code"),
    ]
    done = await asked(predictor, "nli", *examples)
    assert [answer.label for answer in done.answers] == ["entailment", "contradiction", "neutral"]


async def test_zero_shot(predictor: Predictor) -> None:
    model = predictor.models["nli"]
    assert model.zero_shot is not None
    assert predictor.models["sentiment"].zero_shot is None
    example = ZeroShotExample("the team won the soccer game", ("politics", "soccer"))
    done = await predictor.predict(model, model.zero_shot, [example])
    assert done.answers[0].label == "soccer"
    assert done.rows == 2


@pytest.mark.parametrize("padding", ["", LONG])
async def test_question(predictor: Predictor, padding: str) -> None:
    context = f"{padding}The capital of France is Paris. {padding}"
    done = await asked(predictor, "qa", SpanExample("What is the capital of France?", ("nothing here", context)))
    (prediction,) = done.answers
    assert prediction.answer is not None
    assert (prediction.answer.text, prediction.answer.document) == ("Paris", 1)
    assert context[prediction.answer.start : prediction.answer.end] == "Paris"
    assert done.rows == prediction.windows
    assert (done.rows > predict.INLINE_ROWS) == bool(padding)  # so both ways to decode are taken


async def test_many_examples_equal_each_alone(predictor: Predictor) -> None:
    examples = [SpanExample("Who wrote code?", (f"{'it is fun. ' * n}Ada wrote the code.",)) for n in (0, 40, 3, 90)]
    together = (await asked(predictor, "qa", *examples)).answers
    for example, prediction in zip(examples, together, strict=True):
        ((alone),) = (await asked(predictor, "qa", example)).answers
        assert prediction.answer is not None
        assert alone.answer is not None
        assert (prediction.answer.start, prediction.answer.end) == (alone.answer.start, alone.answer.end)
        assert prediction.answer.score == pytest.approx(alone.answer.score, abs=1e-5)


async def test_requests_side_by_side_get_their_own_answers(predictor: Predictor) -> None:
    names = ["Paris", "Berlin", "London", "Ada", "Ruth"] * 8
    tasks = [
        asked(predictor, "qa", SpanExample("Who is in the city?", (f"{'x ' * i}in the city is {name}.",)))
        for i, name in enumerate(names)
    ]
    for name, done in zip(names, await asyncio.gather(*tasks), strict=True):
        answer = done.answers[0].answer
        assert answer is not None
        assert answer.text == name


async def test_every_phase_is_timed(predictor: Predictor, metrics: Metrics) -> None:
    timings = (await asked(predictor, "sentiment", ClassificationExample("fun"))).timings
    for phase in ("tokenize", "queue", "inference", "decode"):
        assert 0 <= getattr(timings, phase) < SECONDS
        labels = {"phase": phase, "model": "sentiment"}
        assert metrics.registry.get_sample_value("bertie_phase_duration_seconds_count", labels) == 1
    assert timings.inference > 0


async def test_slow_text_leaves_the_loop_free(settings: Settings, metrics: Metrics) -> None:
    """Long texts are tokenised on a thread: others are served meanwhile."""
    async with serving(settings, metrics) as predictor:
        threads: list[str] = []
        model = predictor.models["sentiment"]
        encode = model.task.encode

        class Watching:
            decode = staticmethod(model.task.decode)

            @staticmethod
            def encode(examples: Any) -> Any:
                threads.append(threading.current_thread().name)
                return encode(examples)

        for text in ("fun", LONG):
            await predictor.predict(model, Watching(), [ClassificationExample(text)])
        assert threads[0] == threading.current_thread().name
        assert threads[1].startswith("tokenize")


@pytest.mark.parametrize(
    ("example", "characters", "rows"),
    [
        (ClassificationExample("12345"), 5, 1),
        (ClassificationExample("12345", "123"), 8, 1),
        (SpanExample("123", ("12", "1234")), 9, 1),
        (ZeroShotExample("12345", ("1", "12", "123"), "{}..."), 5 + 3 * 5 + 6, 3),  # the text itself once
        (MultipleChoiceExample("123", "12345", ("1", "12")), 5 + 2 * 3 + 3, 2),
    ],
)
def test_what_an_example_costs_is_known_before_it_is_encoded(example: Any, characters: int, rows: int) -> None:
    assert predict._characters(example) == characters
    assert predict._least_rows(example) == rows


# ---- limits and failures --------------------------------------------------------------------------------------------


async def test_too_many_rows_are_refused(settings: Settings, metrics: Metrics) -> None:
    async with serving(settings.model_copy(update={"max_request_rows": 3}), metrics) as predictor:
        with pytest.raises(TooLarge, match=r"\d+ model rows; the limit is 3"):
            await asked(predictor, "qa", SpanExample("Who?", (LONG,)))
        assert (await asked(predictor, "sentiment", *[ClassificationExample("fun")] * 3)).rows == 3


async def test_rows_that_are_known_are_refused_before_any_work(settings: Settings, metrics: Metrics) -> None:
    class Never:
        def encode(self, examples: Any) -> Any:
            raise AssertionError("encoded")

        decode = encode

    async with serving(settings.model_copy(update={"max_request_rows": 5}), metrics) as predictor:
        examples = [ZeroShotExample("fun", ("a", "b", "c"))] * 2
        with pytest.raises(TooLarge, match="6 model rows; the limit is 5"):
            await predictor.predict(predictor.models["nli"], Never(), examples)  # type: ignore[arg-type]


async def test_a_failing_engine_fails_that_request_alone(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serving(settings, metrics, sentiment=engine) as predictor:
        engine.error = RuntimeError("broken")
        with pytest.raises(InferenceError):
            await asked(predictor, "sentiment", ClassificationExample("fun"))
        engine.error = None
        assert (await asked(predictor, "sentiment", ClassificationExample("fun"))).answers[0].label == "positive"
        assert predictor.ready


async def test_the_deadline_counts_from_the_start(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(settings.model_copy(update={"timeout_seconds": 0.05}), metrics, sentiment=engine) as predictor:
        with pytest.raises(DeadlineExceeded):
            await asked(predictor, "sentiment", ClassificationExample("fun"))


async def test_the_deadline_counts_from_the_requests_head(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serving(settings, metrics, sentiment=engine) as predictor:
        model = predictor.models["sentiment"]
        began = time.perf_counter() - settings.timeout_seconds
        with pytest.raises(DeadlineExceeded):
            await predictor.predict(model, model.task, [ClassificationExample("fun")], began=began)
        assert not engine.batches


async def test_an_answer_that_is_ready_too_late_is_none(settings: Settings, metrics: Metrics) -> None:
    async with serving(settings.model_copy(update={"timeout_seconds": 1.0}), metrics) as predictor:
        model = predictor.models["sentiment"]

        class Slow:
            encode = staticmethod(model.task.encode)

            @staticmethod
            def decode(*_: Any) -> str:
                time.sleep(1.1)
                return "late"

        with pytest.raises(DeadlineExceeded, match="ready past"):
            await predictor.predict(model, Slow(), [ClassificationExample("fun")])


async def test_one_dead_model_turns_readiness_off(settings: Settings, metrics: Metrics) -> None:
    class Deadly(FakeEngine):
        def run(self, batch: Batch) -> Outputs:
            raise SystemExit

    async with serving(settings, metrics, sentiment=Deadly()) as predictor:
        assert predictor.ready
        with pytest.raises(InferenceError):
            await asked(predictor, "sentiment", ClassificationExample("fun"))
        async with asyncio.timeout(SECONDS):
            while predictor.ready:
                await asyncio.sleep(0.001)
        assert (await asked(predictor, "nli", ClassificationExample("a", "b"))).rows == 1


# ---- which model ----------------------------------------------------------------------------------------------------


async def test_a_model_is_chosen_by_task_and_labels(predictor: Predictor) -> None:
    def chosen(**wanted: Any) -> str:
        return predictor.model(None, **wanted).name

    assert chosen(task=SpanTask) == "qa"
    assert chosen(task=ClassificationTask, labels=("entailment", "contradiction")) == "nli"
    assert chosen(task=ClassificationTask, without=("entailment",)) == "sentiment"
    assert predictor.model("sentiment", task=ClassificationTask).name == "sentiment"


async def test_a_model_that_is_not_there_or_does_another_task(predictor: Predictor) -> None:
    with pytest.raises(UnknownModel, match="'poetry'; there are nli, qa, sentiment") as unknown:
        predictor.model("poetry", task=SpanTask)
    assert unknown.value.field == "model"
    with pytest.raises(InvalidInput) as unfit:
        predictor.model("sentiment", task=SpanTask)
    assert unfit.value.field == "model"
    with pytest.raises(InvalidInput):
        predictor.model("nli", task=ClassificationTask, without=("entailment",))
    with pytest.raises(UnknownModel):
        predictor.model(None, task=ClassificationTask, labels=("joy",))


# ---- loading --------------------------------------------------------------------------------------------------------


async def test_load_tells_of_every_model(predictor: Predictor, metrics: Metrics) -> None:
    assert list(predictor.models) == ["nli", "qa", "sentiment"]
    for name, model in predictor.models.items():
        labels = {
            "model": name,
            "task": "span" if name == "qa" else "classification",
            "architecture": "bert",
            "precision": "fp32",
            "provider": "cpu",
            "version": model.bundle.version,
        }
        assert metrics.registry.get_sample_value("bertie_model_info", labels) == 1
        assert metrics.registry.get_sample_value("bertie_model_loaded_timestamp_seconds", {"model": name})
        assert (model.provider, model.precision) == ("cpu", "fp32")


async def test_models_share_the_count_of_what_is_alone(predictor: Predictor) -> None:
    (load,) = {model.batcher._load for model in predictor.models.values()}
    assert load.rows == 0


async def test_load_takes_the_models_that_are_named(settings: Settings, metrics: Metrics) -> None:
    async with serving(settings.model_copy(update={"models": ("qa",)}), metrics) as predictor:
        assert list(predictor.models) == ["qa"]


@pytest.mark.parametrize(
    ("kind", "changes", "budget", "error", "match"),
    [
        ("qa", {"max_length": 2000}, 1024, ConfigurationError, "BERTIE_MAX_BATCH_TOKENS=1024"),
        ("qa", {"doc_stride": 40}, 1024, BundleError, "doc_stride of 40 leaves no room"),
        ("sentiment", {"labels": ["one"]}, 1024, BundleError, "no labels"),
    ],
)
async def test_load_refuses_what_cannot_work(
    bundle_factory: Callable[..., Path],
    settings: Settings,
    metrics: Metrics,
    kind: str,
    changes: dict[str, Any],
    budget: int,
    error: type[Exception],
    match: str,
) -> None:
    folder = bundle_factory(kind, **changes)
    with pytest.raises(error, match=match) as raised:
        loading.load(settings.model_copy(update={"models_dir": folder.parent, "max_batch_tokens": budget}), metrics)
    assert repr(kind) in str(raised.value)


async def test_load_names_a_bundle_whose_tokenizer_is_broken(
    bundle_factory: Callable[..., Path], settings: Settings, metrics: Metrics
) -> None:
    folder = bundle_factory("qa")
    (folder / "tokenizer.json").write_text("{}")
    values = json.loads((folder / MANIFEST).read_text())
    # sha256 of "{}"
    values["files"]["tokenizer.json"] = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BundleError, match="'qa': its tokenizer cannot be used"):
        loading.load(settings.model_copy(update={"models_dir": folder.parent}), metrics)


async def test_load_refuses_two_bundles_of_one_name(
    bundle_factory: Callable[..., Path], settings: Settings, metrics: Metrics
) -> None:
    folder = bundle_factory("qa", name="first")
    values = json.loads((bundle_factory("qa", name="second") / MANIFEST).read_text())
    (folder.parent / "second" / MANIFEST).write_text(json.dumps(values | {"name": "first"}))
    with pytest.raises(BundleError, match="'second' calls itself 'first'"):
        loading.load(settings.model_copy(update={"models_dir": folder.parent}), metrics)


# ---- the end --------------------------------------------------------------------------------------------------------


async def test_stop_refuses_at_once_and_lets_the_admitted_finish(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serving(settings, metrics, sentiment=engine) as predictor:
        engine.gate.clear()
        admitted = asked(predictor, "sentiment", ClassificationExample("fun"))
        await until(engine.entered.is_set)
        predictor.stop()
        assert not predictor.ready
        with pytest.raises(NotReady):
            await asked(predictor, "sentiment", ClassificationExample("fun"))
        engine.gate.set()
        assert (await admitted).answers[0].label == "positive"


async def test_drain_finishes_what_is_tokenised_run_or_decoded(settings: Settings, metrics: Metrics) -> None:
    """A request between its phases is in no queue: its text on a thread, or its rows on the way to be decoded there."""
    examples = [ClassificationExample(LONG), *[ClassificationExample("fun")] * predict.INLINE_ROWS]
    for turns in (0, 1, 2, 50):
        async with serving(settings, metrics := Metrics(), sentiment=FakeEngine()) as predictor:
            tasks = [asked(predictor, "sentiment", *examples) for _ in range(4)]
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            assert await predictor.drain(SECONDS)
            for done in await asyncio.gather(*tasks):
                assert done.rows == len(examples)
            with pytest.raises(NotReady):
                await asked(predictor, "sentiment", *examples)
    assert metrics.registry.get_sample_value("bertie_queue_rows", {"model": "sentiment"}) == 0


async def test_drain_gives_up_in_time(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serving(settings, metrics, sentiment=engine) as predictor:
        engine.gate.clear()
        running = asked(predictor, "sentiment", ClassificationExample("fun"))
        await until(engine.entered.is_set)
        waiting = asked(predictor, "sentiment", ClassificationExample("fun"))
        await asyncio.sleep(0)
        assert not await predictor.drain(0.05)
        with pytest.raises(NotReady):
            await waiting
        engine.gate.set()
        assert (await running).answers[0].label == "positive"
        assert await predictor.drain(SECONDS)
