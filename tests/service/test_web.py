"""The playground, read as text: it is self-contained, safe with a caller's text, labelled, and within the contract.

What its modules compute is tried where node is installed, against Python's own: offsets, quoting, tables, and what is
asked of a service that refuses. `test_playground.py` tries the page itself, in a browser.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import service
from service.tasks.inputs import Text

WEB = Path(service.__file__).parent / "web"
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(WEB.iterdir())}
HTML, CSS = FILES["index.html"], FILES["playground.css"]
MODULES = {name: text for name, text in FILES.items() if name.endswith(".js") and name != "docs.js"}
JS = "\n".join(MODULES.values())
# The HTTP contract of the design.
PATHS = {"qa", "classify", "models", "docs", "metrics"}
FIELDS = {"question", "context", "options", "top_k", "no_answer", "text", "premise", "hypothesis", "model"} | {
    "candidate_labels",
    "hypothesis_template",
    "multi_label",
    "text_pair",
    "query",
    "texts",
}
# Controls of the file's tab that choose what is sent, and are not sent.
LOCAL = {"file", "paste", "header", "task", "lanes", "size"}
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
    assert not re.search(r"""\w+://|["'(]//|@import|\burl\(""", text)


def test_the_page_and_its_files_name_each_other() -> None:
    used = {value for name in ("src", "href") for value in PAGE.all(name)} - PATHS
    used |= {name.removeprefix("./") for name in re.findall(r"""from "([^"]+)";""", JS)}
    assert used == FILES.keys() - {"index.html", "docs.html", "docs.js"}


def test_modules_import_one_way() -> None:
    imports = {name: re.findall(r"""from "\./([^"]+)";""", text) for name, text in MODULES.items()}
    done: set[str] = set()
    while ready := {name for name in imports.keys() - done if done.issuperset(imports[name])}:
        done |= ready
    assert done == MODULES.keys()


def test_it_stays_light() -> None:
    assert sum(len(text.encode()) for text in FILES.values()) < 128_000  # bytes, before compression


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
    assert {name for name, text in MODULES.items() if re.search(r"\bfetch\(", text)} == {"service.js", "snippets.js"}
    assert re.findall(r"\bfetch\(([^,]+),", MODULES["service.js"]) == ["path", '"metrics"']
    assert "XMLHttpRequest" not in JS
    assert {value for value in PAGE.all("href") if "." not in value} == {"docs", "metrics"}


def test_the_forms_send_the_contract_s_fields() -> None:
    controls = {
        attributes["name"]
        for tag, attributes in PAGE.elements
        if tag in {"input", "textarea", "select"} and "name" in attributes
    }
    assert (controls - LOCAL) | {"context"} == FIELDS  # the documents' text areas are made by the script
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
    tabs = [a for _, a in PAGE.elements if a.get("role") == "tab" and "id" in a]
    panels = {a["id"]: a["aria-labelledby"] for _, a in PAGE.elements if a.get("role") == "tabpanel" and "id" in a}
    assert {tab["aria-controls"]: tab["id"] for tab in tabs} == panels
    tasks = re.findall(r"""^  "?([\w-]+)"?: \{\n    title:""", JS, re.MULTILINE)
    assert [*(f"tab-{task}" for task in tasks), "tab-file"] == [tab["id"] for tab in tabs]


def test_it_follows_the_reader_s_preferences() -> None:
    assert "prefers-color-scheme: dark" in CSS
    assert "prefers-reduced-motion: reduce" in CSS
    assert ":focus-visible" in CSS
    used, defined = set(re.findall(r"var\((--[\w-]+)\)", CSS)), set(re.findall(r"(--[\w-]+):", CSS))
    assert used == defined


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules where node takes them for modules: beside a package.json that says so."""
    folder = tmp_path_factory.mktemp("web")
    for name, text in MODULES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


class Node:
    """Evaluates over the exports of one module, as node computes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, module: str, expression: str, **values: object) -> object:
        """The value of an expression, which may await, over a module's exports and `values` by name."""
        assert NODE is not None
        program = f"""
            import * as page from {json.dumps((self._folder / module).as_uri())};
            const {{ {", ".join(values)} }} = {json.dumps(values)};
            console.log(JSON.stringify(await ({expression})));
        """
        done = subprocess.run(
            [NODE, "--input-type=module"], input=program, capture_output=True, text=True, encoding="utf-8", timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def node(modules: Path) -> Node:
    if NODE is None:
        pytest.skip("node is not installed")
    return Node(modules)


def test_offsets_are_code_points(node: Node) -> None:
    text = "a😀 e\u0301 👩🏽‍🚀 中文 𝒳 שלום\n."
    ranges = [(start, end) for end in range(len(text) + 1) for start in range(end + 1)]
    got = node("text.js", "ranges.map(([s, e]) => text.slice(...page.codeUnits(text, s, e)))", ranges=ranges, text=text)
    assert got == [text[start:end] for start, end in ranges]


def test_blank_is_what_the_service_calls_blank(node: Node) -> None:
    points = [*range(1, 0xD800), *range(0xE000, 0x11000)]
    text = TypeAdapter(Text)

    def refused(character: str) -> bool:
        try:
            text.validate_python(character)
        except ValidationError:
            return True
        return False

    blank = node("text.js", "points.filter((point) => page.isBlank(String.fromCodePoint(point)))", points=points)
    assert blank == [point for point in points if refused(chr(point))]
    assert node("text.js", "['', ' a ', '\\t\\n'].map(page.isBlank)") == [True, False, True]


def test_server_timing_is_read(node: Node) -> None:
    header = 'tokenize;dur=0.41, queue;desc="waited";dur=12, cache, decode; dur="2.5"'
    read = node("text.js", "[...page.serverTiming(header)]", header=header)
    assert read == [["tokenize", 0.41], ["queue", 12], ["decode", 2.5]]
    assert node("text.js", "[...page.serverTiming(null)]") == []


def test_retry_after_is_seconds_or_a_date(node: Node) -> None:
    headers = [None, "", "2", "Sun, 06 Nov 1994 08:49:37 GMT", "soon"]
    got = node("text.js", "headers.map((header) => page.retryAfter(header, 784111774000))", headers=headers)
    assert got == [None, None, 2, 3, None]


def test_percentages_do_not_round_to_certainty(node: Node) -> None:
    shown = node("text.js", "[0, 0.0004, 0.5, 0.9996, 1].map(page.percent)")
    assert shown == ["0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %"]


@pytest.mark.parametrize("text", ["it's", "''", "", '$HOME `id` \\ "!" \n\t*', "naïve 😀"])
def test_the_curl_line_survives_the_shell(node: Node, text: str) -> None:
    word = node("snippets.js", "page.shellQuote(text)", text=text)
    assert isinstance(word, str)
    assert shlex.split(word) == [text]


@pytest.mark.parametrize(
    "value",
    [
        {
            "a": [True, None, 1.5, -3],
            "text": 'it\'s\n"so" \\ \u2028 😀 \u0000',
            "long": ["word " * 9] * 4,
            "none": {},
            "list": [],
        },
        "x",
    ],
)
def test_python_reads_what_is_written_for_it(node: Node, value: object) -> None:
    written = node("snippets.js", "page.python(value)", value=value)
    assert isinstance(written, str)
    assert ast.literal_eval(written) == value


class TestTables:
    """`table.js`, against Python's csv module."""

    def read(self, node: Node, text: str, **options: object) -> dict[str, Any]:
        table = node("table.js", "page.readTable(text, options)", text=text, options=options)
        assert isinstance(table, dict)
        return table

    def test_quotes_separators_line_ends_and_marks(self, node: Node) -> None:
        cases = []
        for separator, end, mark in itertools.product([",", "\t", ";", "|"], ["\n", "\r\n", "\r"], ["", "\ufeff"]):
            rows = [
                ["1", "plain", ""],
                ["2", 'He said "no", twice; then | left\t.', "x"],
                ["3", f"two{end}lines", "naïve 😀"],
                ["4", '"', '""'],
            ]
            out = io.StringIO(newline="")
            csv.writer(out, delimiter=separator, lineterminator=end).writerows([["id", "text", "more"], *rows])
            for text in (out.getvalue(), out.getvalue().removesuffix(end)):
                cases.append((mark + text, separator, rows))
        texts = [text for text, _, _ in cases]
        tables = node("table.js", "Promise.all(texts.map((text) => page.readTable(text)))", texts=texts)
        assert isinstance(tables, list)
        for table, (text, separator, rows) in zip(tables, cases, strict=True):
            assert (table["separator"], table["columns"]) == (separator, ["id", "text", "more"]), text
            assert table["rows"] == rows, text

    def test_a_quote_that_closes_nowhere_is_text(self, node: Node) -> None:
        text = 'sentence\tlabel\n"unclosed , he said\t1\n"so" it goes\t0\nend "\t1\n'
        assert self.read(node, text)["rows"] == [['"unclosed , he said', "1"], ['"so" it goes', "0"], ['end "', "1"]]

    def test_sentences_with_commas_are_lines(self, node: Node) -> None:
        text = "I liked it, really.\nBad, awful, and long.\n\nFine.\n"
        table = self.read(node, text)
        assert (table["columns"], table["header"], table["separator"]) == (["column 1"], False, None)
        assert table["rows"] == [["I liked it, really."], ["Bad, awful, and long."], ["Fine."]]

    def test_one_quoted_column(self, node: Node) -> None:
        assert self.read(node, 'review\n"a, b"\n"say ""x"""\n')["rows"] == [["a, b"], ['say "x"']]

    def test_the_first_row_is_what_the_reader_says(self, node: Node) -> None:
        assert self.read(node, "a,b\n1,2\n", header=False)["rows"] == [["a", "b"], ["1", "2"]]
        assert self.read(node, "It is fine.,1\nBad.,0\n", header=True)["columns"] == ["It is fine.", "1"]
        assert self.read(node, "a,,a\n1,2,3\n", header=True)["columns"] == ["a", "column 2", "a 2"]

    def test_ragged_rows_keep_what_they_have(self, node: Node) -> None:
        text = "a,b\n" + "1,2\n" * 20 + "3\n4,5,6\n"
        table = self.read(node, text)
        assert table["columns"] == ["a", "b", "column 3"]
        assert table["rows"][-2:] == [["3"], ["4", "5", "6"]]

    def test_json(self, node: Node) -> None:
        records = [{"text": "a\n", "n": 1}, {"text": "b", "more": ["x", "y"]}]
        for text in (json.dumps(records), "\r\n\n".join(map(json.dumps, records)) + "\n"):
            table = self.read(node, text)
            assert (table["kind"], table["columns"]) == ("jsonl", ["text", "n", "more"])
            assert table["rows"] == [["a\n", 1, None], ["b", None, ["x", "y"]]]  # undefined is null to this test

    def test_what_is_no_table_is_told_in_words(self, node: Node) -> None:
        messages = {
            "": "no text",
            " \n": "no text",
            "a,b\n": "no rows",
            '{"a": 1}\n\n{"a": \n': "Line 3 is not JSON",
            '{"a": 1}\n[1]\n': "Row 2 is neither",
            '[{"a": 1}': "JSON array",
        }
        expression = (
            "Promise.all(texts.map((text) => page.readTable(text).then(() => 'read', (error) => error.message)))"
        )
        told = node("table.js", expression, texts=list(messages))
        assert isinstance(told, list)
        assert [message in words for message, words in zip(messages.values(), told, strict=True)] == [True] * 6, told

    def test_bytes_are_decoded_by_what_they_are(self, node: Node) -> None:
        # Not every byte of Windows-1252 that it has and Latin-1 has not: node 20 takes the one for the other.
        contents = [list("naïve 中".encode(encoding)) for encoding in ("utf-8", "utf-8-sig", "utf-16")]
        contents.append(list("naïve".encode("cp1252")))
        expression = "contents.map((content) => page.decode(Uint8Array.from(content).buffer))"
        decoded = node("table.js", expression, contents=contents)
        assert isinstance(decoded, list)
        assert [each["text"] for each in decoded] == ["naïve 中"] * 3 + ["naïve"]
        assert [each["bom"] for each in decoded] == [False, True, True, False]

    @pytest.mark.parametrize("separator", [",", "\t"])
    def test_what_is_written_is_read_back(self, node: Node, separator: str) -> None:
        table = {"columns": ["id", "score"], "rows": [["1", "a,b\t"], ["2", 'say "x"\n'], ["3"]]}
        added = [{"predicted": "yes", "score": 0.5}, {}, {"error": "blank"}]
        expression = "[...page.{}(table, (index) => added[index]{})].join('')"
        written = node(
            "table.js",
            expression.format("writeDelimited", ", separator"),
            table=table,
            added=added,
            separator=separator,
        )
        read = list(csv.reader(io.StringIO(str(written), newline=""), delimiter=separator))
        assert read == [
            ["id", "score", "predicted", "score 2", "error"],  # a column of the reader's own is never overwritten
            ["1", "a,b\t", "yes", "0.5", ""],
            ["2", 'say "x"\n', "", "", ""],
            ["3", "", "", "", "blank"],
        ]
        lines = str(node("table.js", expression.format("writeJsonLines", ""), table=table, added=added)).splitlines()
        assert [json.loads(line) for line in lines] == [
            {"id": "1", "score": "a,b\t", "predicted": "yes", "score 2": 0.5},
            {"id": "2", "score": 'say "x"\n'},
            {"id": "3", "error": "blank"},
        ]


class TestAskingForMany:
    """`batch.js`, against a service made of one function."""

    def ask(
        self, node: Node, service: str, total: int = 10, size: int = 4, lanes: int = 2, wrong: str = "return null"
    ) -> dict[str, Any]:
        """Ask of `total` inputs {n}; `service` is the body of a function of (inputs, call), call counting from 1, and
        `wrong` that of a function of n."""
        outcome = node(
            "batch.js",
            """(async () => {
                const [sizes, settled, waits] = [[], {}, []];
                let [busy, busiest, calls, ended] = [0, 0, 0, "done"];
                const answers = (inputs) => ({ reply: { results: inputs.map(({ n }) => 10 * n) } });
                const work = new Function("inputs", "call", "answers", service);
                const started = performance.now();
                await page.askAll({
                    todo: Array.from({ length: total }, (_, n) => n), input: (n) => ({ n }), size, lanes,
                    wrong: ({ n }) => new Function("n", wrong)(n),
                    signal: new AbortController().signal,
                    settle: (index, prediction, reason) => {
                        if (index in settled) throw new Error("settled twice");
                        settled[index] = prediction ?? reason;
                    },
                    waits: (seconds) => waits.push(seconds),
                    ask: async (inputs) => {
                        sizes.push(inputs.length);
                        busiest = Math.max(busiest, ++busy);
                        const call = ++calls;
                        await new Promise((resolve) => setTimeout(resolve, 2));
                        busy -= 1;
                        return work(inputs, call, answers);
                    },
                }).catch((error) => (ended = error.problem?.title ?? String(error)));
                return { sizes, settled, waits, busiest, ended, seconds: (performance.now() - started) / 1000 };
            })()""",
            service=service,
            total=total,
            size=size,
            lanes=lanes,
            wrong=wrong,
        )
        assert isinstance(outcome, dict)
        return outcome

    def test_every_input_once_and_no_more_at_once_than_wanted(self, node: Node) -> None:
        outcome = self.ask(node, "return answers(inputs)", total=30, size=4, lanes=3)
        assert outcome["settled"] == {str(n): 10 * n for n in range(30)}
        assert (outcome["busiest"], max(outcome["sizes"])) == (3, 4)

    def test_what_is_not_worth_asking_is_not_sent(self, node: Node) -> None:
        outcome = self.ask(node, "return answers(inputs)", lanes=1, wrong="return n % 3 ? null : 'blank'")
        assert outcome["settled"] == {str(n): 10 * n if n % 3 else "blank" for n in range(10)}
        assert outcome["sizes"] == [4, 2]
        assert self.ask(node, "return answers(inputs)", wrong="return 'blank'")["sizes"] == []

    def test_it_waits_as_long_as_the_service_asks(self, node: Node) -> None:
        outcome = self.ask(
            node, "return call <= 2 ? { problem: { status: 429, title: 'Full', retry_after: 0.3 } } : answers(inputs)"
        )
        assert outcome["settled"] == {str(n): 10 * n for n in range(10)}
        assert outcome["waits"] == [0.3, 0.3]
        assert 0.3 <= outcome["seconds"] < 0.6  # the lanes wait together, not one after another

    def test_a_bad_input_fails_alone(self, node: Node) -> None:
        service = """
            const at = inputs.findIndex(({ n }) => n === 3 || n === 5);
            if (at < 0) return answers(inputs);
            return { problem: { status: 422, field: `inputs.${at}.n`, detail: `inputs.${at}.n is odd` } };
        """
        outcome = self.ask(node, service)
        bad = {"3": "n: is odd", "5": "n: is odd"}
        assert outcome["settled"] == {str(n): 10 * n for n in range(10)} | bad

    def test_what_is_too_large_is_asked_in_halves_from_then_on(self, node: Node) -> None:
        service = "return inputs.length > 2 ? { problem: { status: 413, title: 'Too large' } } : answers(inputs)"
        outcome = self.ask(node, service, total=40, size=8, lanes=1)
        assert outcome["settled"] == {str(n): 10 * n for n in range(40)}
        assert outcome["sizes"].count(8) == 1

    def test_an_input_that_fails_alone_says_why(self, node: Node) -> None:
        service = """
            if (!inputs.some(({ n }) => n === 7)) return answers(inputs);
            return { problem: { status: 500, detail: "not finite" } };
        """
        assert self.ask(node, service)["settled"] == {str(n): 10 * n for n in range(10)} | {"7": "not finite"}

    @pytest.mark.parametrize(
        "problem",
        [
            {"status": 401, "title": "No key"},
            {"status": 422, "title": "Wrong model", "field": "model", "detail": "no such model"},
        ],
    )
    def test_what_no_other_try_mends_stops_it(self, node: Node, problem: object) -> None:
        outcome = self.ask(node, f"return call < 3 ? answers(inputs) : {{ problem: {json.dumps(problem)} }}", lanes=1)
        assert outcome["ended"] == problem["title"]  # type: ignore[index]
        assert (len(outcome["settled"]), len(outcome["sizes"])) == (8, 3)

    def test_a_service_that_is_gone_is_tried_again(self, node: Node) -> None:
        service = "return call === 2 ? { problem: { title: 'Gone' } } : answers(inputs)"
        outcome = self.ask(node, service, lanes=1)
        assert (outcome["ended"], len(outcome["settled"])) == ("done", 10)
        assert self.ask(node, "return { problem: { title: 'Gone' } }", lanes=1)["ended"] == "Gone"


def test_histograms_count_everything(node: Node) -> None:
    values = [0, 0.049, 0.05, 0.5, 0.999, 1]
    assert node("charts.js", "page.spread(values)", values=values) == {
        "low": 0,
        "high": 1,
        "counts": [2, 1, *[0] * 8, 1, *[0] * 8, 2],
    }
    wide = node("charts.js", "page.spread(values, 4)", values=[-1.5, 0.2, 1.9])
    assert wide == {"low": -2, "high": 2, "counts": [1, 0, 1, 1]}


def test_live_figures_are_of_the_time_between(node: Node) -> None:
    text = """# HELP bertie_queue_rows Rows waiting.
bertie_queue_rows{model="a b"} 3.0
bertie_queue_rows{model="}"} 4.0
bertie_queue_tokens{model="a b"} 70.0
bertie_batch_rows_bucket{le="1.0",model="a b"} 9.0
bertie_batch_rows_count{model="a b"} %d
bertie_batch_rows_sum{model="a b"} %d
bertie_padding_ratio_sum{model="a b"} %.1f
bertie_queue_wait_seconds 0.0125
"""
    expression = "page.figures(page.sums(before), page.sums(now), 2).map(([name, words]) => [name, words])"
    figures = node("live.js", expression, before=text % (10, 40, 1.0), now=text % (20, 140, 1.4))
    assert figures == [
        ["Rows waiting", "7"],
        ["Tokens waiting", "70"],
        ["Rows/s", "50"],
        ["Batches/s", "5.0"],
        ["Rows/batch", "10"],
        ["Padding", "4.0 %"],
        ["Estimated wait", "12.5 ms"],
    ]
