"""The model card: a bundle's README.md, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.bundle import Manifest

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]

_CURL = {
    "span": """curl -s localhost:8000/qa -H 'content-type: application/json' \\
  -d '{"question": "Where is the Eiffel Tower?", "context": "The Eiffel Tower is a lattice tower in Paris."}'""",
    "pair": """curl -s localhost:8000/classify -H 'content-type: application/json' \\
  -d '{"premise": "A man is playing a guitar on stage.", "hypothesis": "Somebody makes music."}'""",
    "text": """curl -s localhost:8000/classify -H 'content-type: application/json' \\
  -d '{"text": "a gorgeous, witty, seductive movie"}'""",
}
_RECIPE_KEYS = ("epochs", "batch_size", "learning_rate", "max_length", "precision", "dropout", "seed")


def render(manifest: Manifest, scores: Scores, recipe: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The card as Markdown.

    Args:
        scores: by precision and data set, those of graphs that the bundle does not keep included.
        recipe: of the fine-tuning run, empty for a checkpoint of another origin.
        sizes: bytes of each file.
    """
    kind = "span" if manifest.task == "span" else "pair" if "entailment" in manifest.labels else "text"
    lines = [
        f"# {manifest.name}",
        "",
        f"A {manifest.architecture} encoder of {manifest.parameters / 1e6:.1f} M parameters for "
        + ("extractive question answering" if kind == "span" else f"the labels {', '.join(manifest.labels)}")
        + (f", fine-tuned from `{manifest.base_model}`" if manifest.base_model else "")
        + ". Exported by `python -m training export`; serve it with Bertie.",
        "",
        "```sh",
        _CURL[kind],
        "```",
        "",
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
    if not any(scores.values()):
        lines.append("| none | | exported without a dev file |")
    lines += ["", "## Files", "", "| file | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.2f} |" for name, size in sorted(sizes.items())]
    lines += ["", "## Facts", "", f"- longest row: {manifest.max_length} tokens"]
    if kind == "span":
        lines.append(f"- windows share {manifest.doc_stride} tokens")
        if manifest.no_answer:
            lines.append(
                f'- "no answer" wins where its logit beats the best span\'s by more than '
                f"{manifest.no_answer_threshold:.4f}, the best F1 on the dev set"
            )
    if recipe:
        lines.append("- recipe: " + ", ".join(f"{key} {recipe.get(key)}" for key in _RECIPE_KEYS))
    lines += [f"- data: {name}, sha256 {digest or 'not known (hub)'}" for name, digest in manifest.data.items()]
    lines += [
        f"- licence: {manifest.licence or 'not stated'}",
        f"- made {manifest.created} with "
        + ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "",
        "Scores are of these data sets' kind of English; measure on your own text before you rely on them.",
        "",
    ]
    return "\n".join(lines)


def _shown(name: str, value: float) -> str:
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.2f}"
