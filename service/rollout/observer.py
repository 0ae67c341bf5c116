"""What is told of each request that a model with a canary or a shadow answered: it is run on the shadow, kept for
feedback, and written down where answers differ; and the rule decides.

Owns the shadows of all models and how often their versions were right. Knows nothing of HTTP, nor of how plans change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from service.errors import BertieError, UnknownModel, UnknownRequest
from service.metrics import Metrics
from service.predictor import Predictor
from service.repository.plan import Plan, Rule
from service.rollout import rule
from service.rollout.comparison import Comparison, Decision, Share, Snapshot
from service.rollout.disagreements import Disagreements
from service.rollout.recent import Recent, Said
from service.rollout.shadow import Shadow
from service.serving import Answered, Serving
from service.settings import Settings
from service.tasks import Difference, Truth

logger = logging.getLogger(__name__)

Change: TypeAlias = Callable[[str, Callable[[Plan], Plan]], Coroutine[Any, Any, Plan]]
"""Takes a step from a model's plan to the next."""


class Observer:
    """Watches the answers of a process. Used on the event loop that serves."""

    def __init__(self, predictor: Predictor, change: Change, settings: Settings, metrics: Metrics) -> None:
        self._predictor, self._change, self._metrics = predictor, change, metrics
        self._shadows: dict[str, Shadow] = {}
        self._rules: dict[str, Rule | None] = {}
        self._decided: dict[str, Comparison] = {}  # the last of each model that the rule has ended
        self._due: dict[str, int] = {}  # requests after which the rule is asked again
        self._right: dict[tuple[str, str], Counter[bool]] = {}
        self._recent = Recent()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._tasks: set[asyncio.Task[None]] = set()
        file = settings.disagreements_file
        self._file = None if file is None else Disagreements(file, settings.disagreements_mb * 1_000_000)

    def watch(self, name: str, wanted: Plan, serving: Serving) -> Callable[[Answered], None] | None:
        """Watch what answers under a name from now on. A pair of versions that is compared already goes on.

        Returns:
            What is to be told of each answer; None: nothing.
        """
        self._rules[name] = wanted.rule
        version = wanted.shadow.version if wanted.shadow else None
        beside = next((model for model in serving.loaded if model.version == version), None)
        shadow = self._shadows.get(name)
        if shadow is not None and (beside is None or not shadow.of(serving.stable, beside)):
            self._shadows.pop(name).close()
            shadow = None
        if wanted.shadow is not None and beside is not None:
            if shadow is None:
                self._decided.pop(name, None)
                self._due.pop(name, None)
                self._shadows[name] = Shadow(
                    serving.stable,
                    beside,
                    wanted.shadow.percent,
                    self._metrics,
                    self._threads,
                    self._predictor.check_open,
                    self._ask_rule,
                )
            else:
                shadow.percent = wanted.shadow.percent
        self._forget(name, {model.version for model in serving.loaded})
        return self._note if serving.canary is not None or name in self._shadows else None

    def snapshot(self, name: str) -> Snapshot:
        """Get how a model's versions compare. Raises UnknownModel where none are compared."""
        serving = self._predictor.serving.get(name)
        accuracy = {
            version: Share.made(right[True], right.total())
            for (model, version), right in self._right.items()
            if model == name
        }
        if (shadow := self._shadows.get(name)) is not None:
            return shadow.comparison.snapshot(accuracy)
        if (decided := self._decided.get(name)) is not None:
            return decided.snapshot(accuracy)
        if serving is not None and serving.canary is not None:
            return Comparison(name, serving.stable.version, None).snapshot(accuracy)
        raise UnknownModel("no model of this name has versions that are compared", field="name")

    def feedback(
        self, request_id: str, place: int, given: Truth, known: Mapping[str, Serving]
    ) -> tuple[str, Mapping[str, bool]]:
        """Hold a right answer against what was answered. What came first counts.

        Args:
            known: what answers, by the names that the sender may use.

        Returns:
            The model, and of each version that answered whether it was right.

        Raises:
            UnknownRequest: the answer is not known, or no longer.
            InvalidInput: it is no answer of the task that was asked.
        """
        said = self._recent.get(request_id, place)
        serving = known.get(said.model) if said is not None else None
        if said is None or serving is None:
            raise UnknownRequest(
                "no answer to this request and index is kept: it is old, or its model has neither canary nor shadow",
                field="request_id",
            )
        truth = self._recent.hide(serving.stable.tasks[said.task].truth(given))
        if said.truth is None:
            said.truth = truth
            for version in said.gists:
                self._judge(said, version)
        return said.model, {version: said.right(version) for version in said.gists}

    def close(self) -> None:
        """Run no more shadows, and write down what is to be."""
        for shadow in self._shadows.values():
            shadow.close()
        self._shadows.clear()
        for task in self._tasks:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._file is not None:
            self._file.close()

    # ---- a request --------------------------------------------------------------------------------------------------

    def _note(self, answered: Answered) -> None:
        """Hear of an answer; it is on its way to the client when anything is made of it."""
        asyncio.get_running_loop().call_soon(self._answered, answered)

    def _answered(self, answered: Answered) -> None:
        model = answered.model
        task = model.tasks.index(answered.task)
        kept = [Said(model.name, task) for _ in answered.places]
        self._say(answered, kept, model.version, answered.found.answers)
        for place, said in zip(answered.places, kept, strict=True):
            self._recent.add(answered.request_id, place, said)
        if (shadow := self._shadows.get(model.name)) is not None:
            shadow.offer(answered, partial(self._compared, shadow.comparison, answered, kept))

    def _compared(
        self, comparison: Comparison, answered: Answered, kept: Sequence[Said], answers: Sequence[Any],
        differences: Sequence[Difference],
    ) -> None:  # fmt: skip
        """Hear of the shadow's answers to a request."""
        assert comparison.shadow is not None
        self._say(answered, kept, comparison.shadow, answers)
        if self._file is not None:
            for example, first, second, difference in zip(
                answered.examples, answered.found.answers, answers, differences, strict=True
            ):
                if not difference.agree:
                    said = {comparison.stable: first, comparison.shadow: second}
                    told = {"time": time.time(), "request_id": answered.request_id, "model": comparison.model}
                    self._file.add(told | {"stable": comparison.stable, "input": example, "answers": said})

    def _say(self, answered: Answered, kept: Sequence[Said], version: str, answers: Sequence[Any]) -> None:
        """Keep what a version answered, and judge it where the right answer came before."""
        for said, answer in zip(kept, answers, strict=True):
            said.gists[version] = self._recent.hide(answered.task.gist(answer))
            if said.truth is not None:
                self._judge(said, version)

    def _judge(self, said: Said, version: str) -> None:
        """Count whether a version was right; of a pair that is compared, too, when both are known."""
        right = said.right(version)
        self._right.setdefault((said.model, version), Counter())[right] += 1
        self._metrics.feedback.labels(said.model, version, "right" if right else "wrong").inc()
        shadow = self._shadows.get(said.model)
        pair = (shadow.comparison.stable, shadow.comparison.shadow) if shadow is not None else ()
        if shadow is not None and version in pair and said.judged.issuperset(set(pair) - {version}):
            shadow.comparison.judge(*(said.right(str(each)) for each in pair))
        said.judged.add(version)

    # ---- the rule ---------------------------------------------------------------------------------------------------

    def _ask_rule(self, comparison: Comparison) -> None:
        """Ask the rule, and do what it says. What could not be done is tried again after as many requests."""
        limit, asked = self._rules.get(comparison.model), comparison.compared + comparison.failed
        if limit is None or asked < self._due.get(comparison.model, 0):
            return
        if (verdict := rule.decide(limit, comparison)) is not None:
            self._due[comparison.model] = asked + limit.compared
            task = asyncio.get_running_loop().create_task(self._act(verdict, comparison))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _act(self, verdict: rule.Verdict, comparison: Comparison) -> None:
        why, done = verdict.why, True
        try:
            await self._change(comparison.model, rule.step(verdict, comparison))
        except BertieError as error:
            why, done = f"{why}; it could not be done: {error.detail}", False
        comparison.decision = Decision(action=verdict.action, done=done, why=why, at=time.time())
        if done:
            self._decided[comparison.model] = comparison
        fields = {"model": comparison.model, "version": comparison.shadow, "action": verdict.action, "done": done}
        logger.info("the rule decided: %s", why, extra={"fields": fields})

    def _forget(self, name: str, loaded: Set[str]) -> None:
        """Drop what is known of the versions that are no longer loaded."""
        for model, version in list(self._right):
            if model == name and version not in loaded:
                del self._right[model, version]
                self._metrics.feedback.remove_by_labels({"model": model, "version": version})
