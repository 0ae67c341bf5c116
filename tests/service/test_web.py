"""The playground, read as text: it is self-contained, safe with a caller's text, labelled, and within the contract.

What runs in it is tried where node is installed: offsets and quoting against Python's own.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import service

WEB = Path(service.__file__).parent / "web"
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(WEB.iterdir())}
HTML, CSS, JS = FILES["index.html"], FILES["playground.css"], FILES["playground.js"]
# The HTTP contract of the design.
PATHS = {"qa", "classify", "models", "docs", "metrics"}
FIELDS = {"question", "context", "options", "top_k", "no_answer", "text", "premise", "hypothesis", "model"} | {
    "candidate_labels",
    "hypothesis_template",
    "multi_label",
}
NODE = shutil.which("node")


class Page(HTMLParser):
    """Every element of the page as (tag, attributes), and the tags that enclose it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.enclosing: list[tuple[str, ...]] = []
        self._open: list[str] = []
        self.feed(HTML)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.enclosing.append(tuple(self._open))
        if tag not in {"meta", "link", "input", "img"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element at {self.getpos()}"

    def all(self, name: str) -> list[str]:
        """Each value of an attribute, in the page's order."""
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


PAGE = Page()


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    text = FILES[name].replace("http://www.w3.org/2000/svg", "")  # a namespace, never fetched
    assert not re.search(r"""\w+://|["'(]//|@import|url\(""", text)


def test_the_page_and_its_files_name_each_other() -> None:
    used = {value for name in ("src", "href") for value in PAGE.all(name)} - PATHS
    assert used == FILES.keys() - {"index.html", "docs.html", "docs.js"}


def test_it_stays_light() -> None:
    assert sum(len(text.encode()) for text in FILES.values()) < 48_000  # bytes, before compression


def test_a_strict_content_security_policy_holds() -> None:
    assert "default-src 'self'" in PAGE.all("content")
    inline = [
        (tag, name) for tag, attributes in PAGE.elements for name in attributes if name == "style" or name[:2] == "on"
    ]
    assert inline == []
    assert not re.search(r"<style|<script(?![^>]*\ssrc=)", HTML)


def test_text_never_becomes_markup_or_code() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
        r"|\beval\b|\bFunction\(|javascript:",
        HTML + JS,
    )


def test_the_key_stays_in_memory() -> None:
    assert not re.search(r"localStorage|sessionStorage|indexedDB|cookie", JS)
    (key,) = [attributes for _, attributes in PAGE.elements if attributes.get("id") == "token"]
    assert (key["type"], key["autocomplete"]) == ("password", "off")
    assert "name" not in key  # a form's submission could not carry it either


def test_it_asks_for_nothing_outside_the_contract() -> None:
    asked = set(re.findall(r"""route: "([^"]+)\"""", JS)) | set(re.findall(r"""exchange\("([^"]+)\"""", JS))
    assert asked == {"qa", "classify", "models"}
    assert JS.count("fetch(") == 1  # all of it goes through `exchange`
    assert {value for value in PAGE.all("href") if "." not in value} == {"docs", "metrics"}


def test_the_forms_send_the_contract_s_fields() -> None:
    controls = {
        attributes["name"]
        for tag, attributes in PAGE.elements
        if tag in {"input", "textarea", "select"} and "name" in attributes
    }
    assert controls | {"context"} == FIELDS  # the documents' text areas are made by the script
    assert 'name: "context"' in JS


def test_ids_are_unique_and_references_hold() -> None:
    ids = PAGE.all("id")
    assert len(ids) == len(set(ids))
    references = {
        word
        for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby")
        for value in PAGE.all(name)
        for word in value.split()
    }
    assert references
    assert references <= set(ids)
    asked = set(re.findall(r"""\$\(["']#([\w-]+)""", JS))
    assert asked
    assert asked <= set(ids)


def test_every_control_has_a_label() -> None:
    labelled = set(PAGE.all("for"))
    bare = [
        attributes
        for (tag, attributes), enclosing in zip(PAGE.elements, PAGE.enclosing, strict=True)
        if tag in {"input", "textarea", "select"} and attributes.get("id") not in labelled and "label" not in enclosing
    ]
    assert bare == []


def test_each_task_has_a_tab_and_a_panel() -> None:
    tabs = [a for _, a in PAGE.elements if a.get("role") == "tab"]
    panels = {a["id"]: a["aria-labelledby"] for _, a in PAGE.elements if a.get("role") == "tabpanel"}
    assert {tab["aria-controls"]: tab["id"] for tab in tabs} == panels
    tasks = re.findall(r"""^  "?([\w-]+)"?: \{\n    route:""", JS, re.MULTILINE)
    assert [f"tab-{task}" for task in tasks] == [tab["id"] for tab in tabs]


def test_it_follows_the_reader_s_preferences() -> None:
    assert "prefers-color-scheme: dark" in CSS
    assert "prefers-reduced-motion: reduce" in CSS
    assert ":focus-visible" in CSS
    used, defined = set(re.findall(r"var\((--[\w-]+)\)", CSS)), set(re.findall(r"(--[\w-]+):", CSS))
    assert used == defined


def call(expression: str) -> object:
    """The value of an expression over the playground's exported functions, as node computes it."""
    assert NODE is not None
    # As a data URL: without a package.json, node would not take a file named .js for a module.
    program = f"""
        const source = {json.dumps(JS)};
        const page = await import("data:text/javascript;charset=utf-8," + encodeURIComponent(source));
        console.log(JSON.stringify({expression}));
    """
    done = subprocess.run(
        [NODE, "--input-type=module"], input=program, capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


@needs_node
def test_offsets_are_code_points() -> None:
    text = "a😀 e\u0301 👩🏽‍🚀 中文 𝒳 שלום\n."
    ranges = [(start, end) for end in range(len(text) + 1) for start in range(end + 1)]
    quoted = json.dumps(text)
    got = call(f"{json.dumps(ranges)}.map(([s, e]) => {quoted}.slice(...page.codeUnits({quoted}, s, e)))")
    assert got == [text[start:end] for start, end in ranges]


@needs_node
@pytest.mark.parametrize("text", ["it's", "''", "", '$HOME `id` \\ "!" \n\t*', "naïve 😀"])
def test_the_curl_line_survives_the_shell(text: str) -> None:
    word = call(f"page.shellQuote({json.dumps(text)})")
    assert isinstance(word, str)
    assert shlex.split(word) == [text]


@needs_node
def test_server_timing_is_read() -> None:
    header = 'tokenize;dur=0.41, queue;desc="waited";dur=12, cache, decode; dur="2.5"'
    assert call(f"[...page.serverTiming({json.dumps(header)})]") == [["tokenize", 0.41], ["queue", 12], ["decode", 2.5]]
    assert call("[...page.serverTiming(null)]") == []


@needs_node
def test_percentages_do_not_round_to_certainty() -> None:
    assert call("[0, 0.0004, 0.5, 0.9996, 1].map(page.percent)") == [
        "0.0 %",
        "< 0.1 %",
        "50.0 %",
        "> 99.9 %",
        "100.0 %",
    ]
