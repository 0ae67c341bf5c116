"""The path of a request: encode, queue, run, decode; which model answers; loading and draining."""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service import predictor as predict
from service.engine.session import Engine
from service.errors import (
    InferenceError,
    InvalidInput,
    NotReady,
    QueueFull,
    TooLarge,
    UnknownModel,
)
from service.metrics import PHASES, Metrics
from service.predictor import Predictor
from service.repository import loading
from service.scheduler.permits import Permit
from service.serving import Model, Predictions, Sender, Serving
from service.settings import Settings
from service.tasks import (
    AnyTask,
    ClassificationExample,
    ClassificationTask,
    MultipleChoiceExample,
    SpanExample,
    SpanTask,
    ZeroShotExample,
    ZeroShotTask,
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


def asked(predictor: Predictor, name: str, *examples: Any, permit: Permit | None = None) -> asyncio.Task[Predictions]:
    model, task = predictor.choose(name, examples[0])
    return asyncio.create_task(predictor.predict(model, task, examples, permit))


def replaced(task: AnyTask, **methods: Any) -> Any:
    """A task with other methods."""
    changed = copy(task)
    changed.__dict__.update(methods)
    return changed


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
    assert [type(task) for task in predictor.models["nli"].tasks] == [ClassificationTask, ZeroShotTask]
    assert [type(task) for task in predictor.models["sentiment"].tasks] == [ClassificationTask]
    done = await asked(predictor, "nli", ZeroShotExample("the team won the soccer game", ("politics", "soccer")))
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
    seconds = (await asked(predictor, "sentiment", ClassificationExample("fun"))).seconds
    assert tuple(seconds) == PHASES
    for phase in PHASES:
        assert 0 <= seconds[phase] < SECONDS
        labels = {"phase": phase, "model": "sentiment"}
        assert metrics.registry.get_sample_value("bertie_phase_duration_seconds_count", labels) == 1
    assert seconds["inference"] > 0


async def test_every_answer_is_counted(predictor: Predictor, metrics: Metrics) -> None:
    await asked(predictor, "sentiment", ClassificationExample("fun"), ClassificationExample("bad"))
    labels = {"model": "sentiment", "label": "positive"}
    assert metrics.registry.get_sample_value("bertie_predictions_total", labels) == 1
    assert metrics.registry.get_sample_value("bertie_confidence_count", {"model": "sentiment"}) == 2


async def test_slow_text_leaves_the_loop_free(settings: Settings, metrics: Metrics) -> None:
    """Long texts are tokenised on a thread: others are served meanwhile."""
    async with serving(settings, metrics) as predictor:
        threads: list[str] = []
        model, task = predictor.choose("sentiment", ClassificationExample("fun"))

        def watched(examples: Any) -> Any:
            threads.append(threading.current_thread().name)
            return task.encode(examples)

        for text in ("fun", LONG):
            await predictor.predict(model, replaced(task, encode=watched), [ClassificationExample(text)])
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
    assert example.characters == characters
    assert example.least_rows == rows


# ---- limits and failures --------------------------------------------------------------------------------------------


async def test_too_many_rows_are_refused(settings: Settings, metrics: Metrics) -> None:
    async with serving(settings.model_copy(update={"max_request_rows": 3}), metrics) as predictor:
        with pytest.raises(TooLarge, match=r"\d+ model rows; the limit is 3"):
            await asked(predictor, "qa", SpanExample("Who?", (LONG,)))
        assert (await asked(predictor, "sentiment", *[ClassificationExample("fun")] * 3)).rows == 3


async def test_rows_that_are_known_are_refused_before_any_work(settings: Settings, metrics: Metrics) -> None:
    async with serving(settings.model_copy(update={"max_request_rows": 5}), metrics) as predictor:
        examples = [ZeroShotExample("fun", ("a", "b", "c"))] * 2
        model, task = predictor.choose("nli", examples[0])
        never = replaced(task, encode=lambda _: pytest.fail("encoded"))
        with pytest.raises(TooLarge, match="6 model rows; the limit is 5"):
            await predictor.predict(model, never, examples)


async def test_the_permit_is_counted_anew_when_the_tokens_are_known(settings: Settings, metrics: Metrics) -> None:
    """By how many there are; what does not fit is refused before it is queued."""
    engine = FakeEngine()
    async with serving(settings.model_copy(update={"max_queue_tokens": 800}), metrics, sentiment=engine) as predictor:
        permit = predictor.permits.acquire("a", 400)
        done = await asked(predictor, "sentiment", ClassificationExample("fun"), permit=permit)
        assert done.rows == 1
        assert predictor.permits.short.held == 3  # [CLS] fun [SEP]
        others = [predictor.permits.acquire(i, size) for i, size in enumerate([*[400] * 7, 176])]
        before = engine.rows
        with pytest.raises(QueueFull):
            await asked(predictor, "sentiment", *[ClassificationExample("fun")] * 100, permit=permit)
        assert engine.rows == before
        for each in (permit, *others):
            each.release()


async def test_the_rate_is_that_of_all_schedulers(predictor: Predictor) -> None:
    assert predictor._rate() == 0
    await asked(predictor, "sentiment", ClassificationExample("fun"))
    assert predictor._rate() > 0


async def test_clients_share_by_who_they_are(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serving(settings.model_copy(update={"max_batch_tokens": 128}), metrics, sentiment=engine) as predictor:
        engine.gate.clear()
        tasks = [asked(predictor, "sentiment", ClassificationExample("fun"))]
        await until(engine.entered.is_set)
        examples = [ClassificationExample("a b c")] * 40
        permits = [predictor.permits.acquire("a", 0) for _ in range(9)]
        many = [asked(predictor, "sentiment", *examples, permit=permit) for permit in permits]
        await asyncio.sleep(0.01)
        one = asked(predictor, "sentiment", *examples, permit=predictor.permits.acquire("b", 0))
        await asyncio.sleep(0.01)
        engine.gate.set()
        await one
        assert sum(task.done() for task in many) <= 3
        await asyncio.gather(*tasks, *many)


async def test_a_request_that_is_given_up_leaves_nothing(settings: Settings, metrics: Metrics) -> None:
    """In whatever phase it is: tokenised on a thread, queued, run or decoded."""
    engine = FakeEngine(seconds=0.002)
    examples = [ClassificationExample(LONG), *[ClassificationExample("fun")] * predict.INLINE_ROWS]
    async with serving(settings, metrics, sentiment=engine) as predictor:
        for turns in (0, 1, 2, 5, 20, 100):
            tasks = [asked(predictor, "sentiment", *examples) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0.0001)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert predictor._running == 0
            assert metrics.registry.get_sample_value("bertie_queue_rows", {"model": "sentiment"}) == 0
        assert (await asked(predictor, "sentiment", *examples)).rows == len(examples)


async def test_an_error_of_the_encoding_says_which_example_it_is_about(predictor: Predictor) -> None:
    with pytest.raises(InvalidInput) as error:
        await asked(predictor, "qa", SpanExample("Who?", ("a",)), SpanExample("who " * 100, ("a",)))
    assert error.value.in_input().field == "inputs.1.question"


async def test_a_failing_engine_fails_that_request_alone(settings: Settings, metrics: Metrics) -> None:
    engine = FakeEngine()
    async with serving(settings, metrics, sentiment=engine) as predictor:
        engine.error = RuntimeError("broken")
        with pytest.raises(InferenceError):
            await asked(predictor, "sentiment", ClassificationExample("fun"))
        engine.error = None
        assert (await asked(predictor, "sentiment", ClassificationExample("fun"))).answers[0].label == "positive"
        assert predictor.ready


async def test_one_model_that_kills_its_worker_turns_readiness_off_for_a_while(
    settings: Settings, metrics: Metrics
) -> None:
    engine = FakeEngine()
    async with serving(settings, metrics, sentiment=engine) as predictor:
        assert predictor.ready
        engine.error = SystemExit()
        with pytest.raises(InferenceError):
            await asked(predictor, "sentiment", ClassificationExample("fun"))
        assert not predictor.ready
        assert predictor.alive
        engine.error = None
        assert (await asked(predictor, "nli", ClassificationExample("a", "b"))).rows == 1
        await until(lambda: predictor.ready)


# ---- which model ----------------------------------------------------------------------------------------------------


SPAN, PAIR, TEXT = SpanExample("Who?", ("Ada.",)), ClassificationExample("a", "b"), ClassificationExample("a")
ZERO_SHOT, CHOICE = ZeroShotExample("a", ("b", "c")), MultipleChoiceExample("Who?", "Ada.", ("Ada", "Ruth"))


@pytest.mark.parametrize(
    ("example", "model", "task"),
    [
        (SPAN, "qa", SpanTask),
        (PAIR, "nli", ClassificationTask),
        (TEXT, "sentiment", ClassificationTask),
        (ZERO_SHOT, "nli", ZeroShotTask),
    ],
)
async def test_the_model_that_suits_an_example_answers(
    predictor: Predictor, example: Any, model: str, task: type[AnyTask]
) -> None:
    for name in (None, model):
        found, does = predictor.choose(name, example)
        assert (found.name, type(does)) == (model, task)


async def test_a_model_that_is_chosen_by_name_may_have_labels_of_its_own(
    bundle_factory: Callable[..., Path], metrics: Metrics
) -> None:
    folder = bundle_factory("nli", name="pairs", labels=("same", "other", "opposite")).parent
    bundle_factory("sentiment", name="moods", labels=("sad", "glad"))
    bundle_factory("sentiment")
    async with serving(Settings(models_dir=folder, low_latency=False), metrics) as predictor:
        assert predictor.choose("pairs", PAIR)[0].name == "pairs"
        assert predictor.choose("moods", TEXT)[0].name == "moods"
        assert predictor.choose(None, TEXT)[0].name == "sentiment"  # before others that take a text
        with pytest.raises(UnknownModel, match="no loaded model can answer these fields"):
            predictor.choose(None, PAIR)


async def test_a_model_that_is_not_there_or_does_another_task(predictor: Predictor) -> None:
    with pytest.raises(UnknownModel, match="'poetry'; there are nli, qa, sentiment") as unknown:
        predictor.choose("poetry", SPAN)
    assert unknown.value.field == "model"
    with pytest.raises(InvalidInput, match="'sentiment' cannot answer these fields: it takes a text") as unfit:
        predictor.choose("sentiment", SPAN)
    assert unfit.value.field == "model"
    with pytest.raises(InvalidInput, match="a premise and a hypothesis, or a text and candidate_labels"):
        predictor.choose("nli", TEXT)
    with pytest.raises(InvalidInput, match="it takes a question and a context"):
        predictor.choose("qa", CHOICE)
    with pytest.raises(UnknownModel, match="no loaded model"):
        predictor.choose(None, CHOICE)


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


class TestVersions:
    """Which version of a model answers."""

    @pytest.fixture
    def canary(self, predictor: Predictor) -> Model:
        stable = predictor.serving["sentiment"].stable
        return replace(stable, bundle=replace(stable.bundle, version="2"))

    def serve(self, predictor: Predictor, **changes: Any) -> None:
        serving = replace(predictor.serving["sentiment"], **changes)
        predictor.serving = {**predictor.serving, "sentiment": serving}

    @pytest.mark.parametrize("name", ["sentiment", None])
    async def test_the_canary_answers_whom_it_takes(
        self, predictor: Predictor, canary: Model, name: str | None
    ) -> None:
        self.serve(predictor, canary=canary, takes=lambda sender: sender.draw < 0.1 or "x" in sender.headers)
        example = ClassificationExample("fun")
        stable = predictor.models["sentiment"]
        assert predictor.choose(name, example, Sender({}, 0.05))[0] is canary
        assert predictor.choose(name, example, Sender({"x": ""}, 0.5))[0] is canary
        assert predictor.choose(name, example, Sender({}, 0.5))[0] is stable
        assert predictor.choose(name, example)[0] is stable

    async def test_a_version_may_be_named(self, predictor: Predictor, canary: Model) -> None:
        self.serve(predictor, others={"2": canary})
        example = ClassificationExample("fun")
        assert predictor.choose("sentiment", example, version="2")[0] is canary
        with pytest.raises(UnknownModel, match=r"no version '3' of it; loaded: .*, 2"):
            predictor.choose("sentiment", example, version="3")

    async def test_a_version_that_nobody_uses_is_freed(self, predictor: Predictor, canary: Model) -> None:
        gone = weakref.ref(predictor.models["sentiment"])
        running = asked(predictor, "sentiment", ClassificationExample("fun"))
        await asyncio.sleep(0)
        predictor.serving = {**predictor.serving, "sentiment": Serving(canary)}
        assert gone() is not None  # its request goes on
        await running
        del running
        assert gone() is None

    @pytest.mark.parametrize("end", ["answered", "failed", "refused"])
    async def test_how_its_requests_end_is_counted(self, settings: Settings, metrics: Metrics, end: str) -> None:
        engine = FakeEngine()
        async with serving(settings, metrics, sentiment=engine) as predictor:
            engine.error = ValueError("no") if end == "failed" else None
            example = ClassificationExample("\x00" if end == "refused" else "fun")
            if end == "refused":
                predictor._settings = settings.model_copy(update={"max_request_rows": 0})
            with contextlib.suppress(InferenceError, TooLarge):
                await asked(predictor, "sentiment", example)
            version = predictor.models["sentiment"].version
        for outcome in ("answered", "failed"):
            labels = {"model": "sentiment", "version": version, "outcome": outcome}
            found = metrics.registry.get_sample_value("bertie_version_answers_total", labels)
            assert found == (outcome == end)
        labels = {"model": "sentiment", "version": version}
        count = metrics.registry.get_sample_value("bertie_version_duration_seconds_count", labels)
        assert count == (end == "answered")
