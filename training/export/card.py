"""The model card: a bundle's README.md and its reliability diagram, written from what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from service.repository.manifest import Calibration, Manifest
from training import tasks
from training.checkpoints.families import FAMILIES
from training.evaluate.calibration import Fit
from training.export import own
from training.export.own import Compared

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]

_RECIPE_KEYS = ("epochs", "batch_size", "learning_rate", "max_length", "precision", "dropout", "max_steps", "seed")


DIAGRAM = "reliability.svg"


def render(
    manifest: Manifest,
    scores: Scores,
    recipe: Mapping[str, Any],
    sizes: Mapping[str, int],
    fit: Fit | None = None,
    halves: Mapping[str, float | None] | None = None,
    compared: Compared | None = None,
) -> dict[str, str]:
    """The card's files by name: README.md, and the diagram where a temperature was fitted.

    Args:
        scores: by precision and data set, those of graphs that the bundle does not keep included.
        recipe: of the fine-tuning run, empty for a checkpoint of another origin.
        sizes: bytes of each file.
        fit: of the temperature.
        halves: largest difference of a logit, by precision, of graphs that compute in fp16; None where not compared.
        compared: how far the graphs answer alike on the bundle's own examples; None where there are scores.
    """
    task = tasks.named(manifest.task, multi_label=manifest.multi_label)
    lines = [
        f"# {manifest.name}",
        "",
        f"{FAMILIES[manifest.architecture].called} encoder of {manifest.parameters / 1e6:.1f} M parameters for "
        + task.purpose(manifest)
        + (f", fine-tuned from `{manifest.base_model}`" if manifest.base_model else "")
        + ". Exported by `python -m training export`; serve it with Bertie.",
        "",
        "```sh",
        _curl(*task.request(manifest, manifest.name, manifest.layout)),
        "```",
        "",
        *(_own(compared, task) if compared else _scores(scores)),
    ]
    if fit and manifest.calibration:
        lines += ["", *_calibration(manifest.temperature, manifest.calibration, task.right)]
    lines += ["", "## Files", "", "| file | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.2f} |" for name, size in sorted(sizes.items())]
    lines += ["", "## Facts", "", f"- longest row: {manifest.max_length} tokens"]
    lines += [
        f"- {precision}: logits within {difference:.1e} of the same weights' in fp32"
        if difference is not None
        else f"- {precision}: not compared with fp32, for want of kernels"
        for precision, difference in (halves or {}).items()
    ]
    if manifest.checkpoint:
        lines.append("- exported from `{}`, commit {}".format(*manifest.checkpoint.rsplit("@", 1)))
    if manifest.markers:
        markers = ", ".join(f"`{marker}`" for marker in manifest.markers)
        lines.append(f"- markers, which are no plain text where they stand in a text: {markers}")
    lines += [f"- {fact}" for fact in task.facts(manifest)]
    if recipe:
        lines.append("- recipe: " + ", ".join(f"{key} {recipe[key]}" for key in _RECIPE_KEYS if key in recipe))
    lines += [f"- data: {name}, sha256 {digest or 'not known (hub)'}" for name, digest in manifest.data.items()]
    lines += [
        f"- licence: {manifest.licence or 'not stated'}",
        f"- made {manifest.created} with "
        + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "",
        "Measure on your own text before you rely on it."
        if compared
        else "Scores are of these data sets' kind of English; measure on your own text before you rely on them.",
        "",
    ]
    files = {"README.md": "\n".join(lines)}
    if fit:
        files[DIAGRAM] = diagram(fit)
    return files


def _scores(scores: Scores) -> list[str]:
    lines = [
        "## Scores",
        "",
        "Measured at export through the service's own encode, engine and decode, in percent.",
        "",
        "| data | precision | scores |",
        "|---|---|---|",
    ]
    for precision, by_data in scores.items():
        for data, values in by_data.items():
            shown = ", ".join(_shown(name, value) for name, value in values.items())
            lines.append(f"| {data} | {precision} | {shown} |")
    return lines


def _own(compared: Compared, task: tasks.Task[Any, Any]) -> list[str]:
    """What was measured without dev data, and what was not."""
    lines = [
        "## Measured without a dev file",
        "",
        f"On {compared.examples} examples of Bertie's own, of {own.LENGTHS[0]} to {own.LENGTHS[-1]} words, half in "
        "English and half in the vocabulary's own pieces:",
        "",
        f"- fp32: logits within {compared.parity:.1e} of torch's",
    ]
    for precision, agreement in compared.agreements.items():
        lines.append(
            f"- {precision}: {agreement.alike:.1f} % {task.alike}, their scores {agreement.mean:.4f} "
            f"apart on average and {agreement.largest:.3f} at most (of 1)"
            if agreement
            else f"- {precision}: not run, for want of kernels on the CPU"
        )
    fitted = " and ".join(["the temperature of scores", *([task.threshold] if task.threshold else [])])
    return [*lines, "", f"Not measured: how often answers are right. Not fitted: {fitted.replace('_', ' ')}."]


def _curl(route: str, body: Mapping[str, Any]) -> str:
    return f"curl -s localhost:8000{route} -H 'content-type: application/json' \\\n  -d '{json.dumps(body)}'"


def diagram(fit: Fit) -> str:
    """How often answers are right against their score, before the temperature and with it, as an SVG picture."""
    side, margin = 300, 44

    def x(value: float) -> float:
        return margin + side * value

    def y(value: float) -> float:
        return 14 + side * (1 - value)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side + margin + 14} {side + 58}" width="480" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#555">',
        "<title>How often answers are right, against their score</title>",
        f'<rect x="{margin}" y="14" width="{side}" height="{side}" fill="#fff" stroke="#bbb"/>',
        f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="#bbb" stroke-dasharray="4 4"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{x(tick):.0f}" y="{side + 30}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{margin - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick:g}</text>')
    for bins, colour, name, place in ((fit.before, "#c2703d", "before", 0.05), (fit.after, "#2a6fbb", "after", 0.3)):
        path = "L".join(f"{x(bin.score):.1f} {y(bin.right):.1f}" for bin in bins)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        most = max(bin.count for bin in bins)
        for bin in bins:  # the area of a dot is the share of the answers
            radius = 2 + 6 * math.sqrt(bin.count / most)
            parts.append(
                f'<circle cx="{x(bin.score):.1f}" cy="{y(bin.right):.1f}" r="{radius:.1f}" fill="{colour}" '
                f'fill-opacity="0.7"><title>{name}: {bin.count} answers, score {bin.score:.3f}, '
                f"right {bin.right:.3f}</title></circle>"
            )
        parts.append(f'<circle cx="{x(place):.0f}" cy="28" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x(place) + 9:.0f}" y="32">{name}</text>')
    parts.append(f'<text x="{x(0.5):.0f}" y="{side + 48}" text-anchor="middle">score</text>')
    parts.append(f'<text transform="translate(12 {y(0.5):.0f}) rotate(-90)" text-anchor="middle">share right</text>')
    return "\n".join([*parts, "</svg>", ""])


def _calibration(temperature: float, calibration: Calibration, right: str) -> list[str]:
    return [
        "## Calibration",
        "",
        f"Logits are divided by {temperature:.3f} (Guo et al. 2017), fitted on {calibration.rows} answers of "
        f"{calibration.data}. Expected calibration error over 15 bins, taking {right} as right: "
        f"{calibration.ece_before:.2f} % before, {calibration.ece_after:.2f} % after (each half of the answers under "
        "the temperature that was fitted on the other half).",
        "",
        f"![How often answers are right, against their score]({DIAGRAM})",
    ]


def _shown(name: str, value: float) -> str:
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.2f}"
