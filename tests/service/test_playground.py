"""The playground in Chromium, driven as a person does: typing, clicking, uploading, downloading, copying.

Needs Chromium with its driver, and the package selenium.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from service.tasks import TASKS
from tests.bundles import make_bundle
from tests.serving import Running, running

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Stale = pytest.importorskip("selenium.common.exceptions").StaleElementReferenceException
DriverService = pytest.importorskip("selenium.webdriver.chrome.service").Service
Wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="Chromium or its driver is not installed")

SECONDS = 30
REVIEWS = [
    {"id": "1", "review": 'A "good", happy film; I loved it.', "year": "1999"},
    {"id": "2", "review": "awful, boring\nand sad", "year": "2003"},
    {"id": "3", "review": " ", "year": "2004"},
    {"id": "4", "review": "terrible — naïve 😀", "year": "2005"},
]
PREDICTED = ["positive", "negative", "", "negative"]


class Page:
    """A page in the browser, in a person's words."""

    def __init__(self, driver: Any, url: str, downloads: Path) -> None:
        self.driver, self.url, self.downloads = driver, url, downloads

    def open(self, tab: str = "qa", *, live: bool = True) -> None:
        """Load the page anew and choose a tab. Waits for all that is drawn by itself, which moves the rest.

        Args:
            live: whether the strip of live figures is expected.
        """
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/#{tab}")
        self.until(lambda: self.all("#models a") and (not live or self.all("#live")))

    def all(self, selector: str) -> list[Any]:
        """The elements that can be seen."""
        return [element for element in self.driver.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]

    def one(self, selector: str) -> Any:
        (element,) = self.all(selector)
        return element

    def text(self, selector: str) -> str:
        """The text that can be seen, "" where there is none yet."""
        return "\n".join(self.texts(selector)).strip()

    def texts(self, selector: str) -> list[str]:
        """The text of each element, read at one moment: the page may draw meanwhile."""
        script = """
            const shown = [...document.querySelectorAll(arguments[0])].filter((element) => element.checkVisibility());
            return shown.map((element) => element.innerText);
        """
        return list(self.driver.execute_script(script, selector))

    def click(self, selector: str, text: str | None = None) -> None:
        (element,) = [each for each in self.all(selector) if text is None or each.text == text]
        element.click()

    def write(self, selector: str, text: str) -> None:
        element = self.one(selector)
        element.send_keys(Keys.CONTROL, "a")
        element.send_keys(Keys.DELETE)
        element.send_keys(text)

    def press(self, *keys: str) -> None:
        actions = webdriver.ActionChains(self.driver)
        for key in keys[:-1]:
            actions.key_down(key)
        actions.send_keys(keys[-1])
        for key in keys[:-1]:
            actions.key_up(key)
        actions.perform()

    def focused(self) -> Any:
        return self.driver.switch_to.active_element

    def run(self) -> None:
        """Run the form of the tab, and wait for what comes."""
        self.driver.execute_script("for (const e of document.querySelectorAll('.result')) e.replaceChildren()")
        self.click(".run")
        self.until(lambda: self.all(".verdict, .problem"))

    def until(self, holds: Callable[[], Any]) -> Any:
        # What was looked at may be drawn anew meanwhile.
        return Wait(self.driver, SECONDS, 0.02, ignored_exceptions=[Stale]).until(lambda _: holds())

    def fill(self, selector: str, text: str) -> None:
        """As `write`, of any length and with characters that the driver cannot type."""
        script = """
            const field = document.querySelector(arguments[0]);
            field.value = arguments[1];
            field.dispatchEvent(new InputEvent("input", { bubbles: true }));
        """
        self.driver.execute_script(script, selector, text)

    def reply(self) -> Any:
        """The response that the tab shows as it came."""
        script = "return document.querySelector('[role=tabpanel]:not([hidden]) .raw pre').textContent"
        return json.loads(self.driver.execute_script(script))

    def marked(self) -> str:
        """The words that are lit up in the documents."""
        return "".join(self.texts("mark.on"))

    def bars(self) -> dict[str, str]:
        """Name to value of the bars that can be seen."""
        return dict(zip(self.texts(".bar .name"), self.texts(".bar .value"), strict=True))

    def upload(self, path: Path) -> None:
        self.driver.find_element(By.ID, "file").send_keys(str(path))
        self.until(lambda: self.text("#table-said").startswith(path.name))

    def run_file(self) -> None:
        self.click("#run-file")
        self.until(lambda: self.text("#said").startswith("Done"))

    def download(self, button: str) -> bytes:
        """What a click on a button saves."""
        for old in self.downloads.iterdir():
            old.unlink()
        self.click(button)

        def saved() -> list[Path]:
            found = list(self.downloads.iterdir())
            return found if len(found) == 1 and found[0].suffix != ".crdownload" and found[0].stat().st_size else []

        (path,) = self.until(saved)
        return bytes(path.read_bytes())

    def code(self, way: str) -> str:
        """The snippet that the Copy button copies."""
        self.click(".ways [role=tab]", way)
        # Watched from inside: "Copied" stands there for a moment only.
        self.driver.execute_script("""
            const button = [...document.querySelectorAll(".copy")].find((element) => element.checkVisibility());
            window.copied = new Promise((resolve) => new MutationObserver(() => {
                if (button.textContent === "Copied") resolve();
            }).observe(button, { childList: true }));
        """)
        self.click(".copy")
        script = "window.copied.then(() => navigator.clipboard.readText()).then(arguments[0])"
        return str(self.driver.execute_async_script(script))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,1000",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path_factory.mktemp("downloads"))})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, DriverService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("nli", "qa", "sentiment", "choice"):
        make_bundle(folder, kind)
    make_bundle(folder, "sentiment", name="topics", labels=("sad", "glad"), multi_label=True, label_threshold=0.7)
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Running]:
    with running(models, BERTIE_WORKERS="1") as service:
        yield service


def page_of(driver: Any, url: str, downloads: Path) -> Page:
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    permissions = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    driver.get_log("browser")
    return Page(driver, url, downloads)


@pytest.fixture
def page(driver: Any, service: Running, tmp_path: Path) -> Iterator[Page]:
    """The page of a service with a model of every kind. At the end: nothing was asked of another host, and neither the
    policy nor a script has complained."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    page = page_of(driver, service.url, downloads)
    yield page
    asked = driver.execute_script("return performance.getEntriesByType('resource').map(({ name }) => name)")
    assert [url for url in asked if not url.startswith((f"{service.url}/", "blob:"))] == []
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    complaints = [line["message"] for line in driver.get_log("browser")]
    assert [line for line in complaints if "the server responded with a status of 4" not in line] == []


def reviews(folder: Path, name: str = "reviews.csv", *, encoding: str = "utf-8", separator: str = ",") -> Path:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["id", "review", "year"], delimiter=separator)
    writer.writeheader()
    writer.writerows(REVIEWS)
    path = folder / name
    path.write_bytes(out.getvalue().encode(encoding))
    return path


class TestAnswers:
    CONTEXT = "The capital of France is Paris. A dog lived there."

    def ask(self, page: Page, question: str, *, top_k: int = 3) -> None:
        page.open()
        page.write("#qa-question", question)
        page.write("#qa-context-0", self.CONTEXT)
        slider = page.one("#qa-top-k")
        slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * (top_k - 1))
        page.run()

    def test_the_answer_is_lit_up_in_its_text(self, page: Page) -> None:
        self.ask(page, "What is the capital of France?")
        assert page.text(".verdict").startswith("Paris")
        assert page.marked() == "Paris"
        assert page.text(".texts") == self.CONTEXT
        assert "1 window" in page.text(".facts")

    def test_runners_up_move_the_light(self, page: Page) -> None:
        self.ask(page, "What is the capital of France?")
        first, second, *_ = page.all(".answers button")
        runner_up = second.find_element(By.CSS_SELECTOR, ".name").text
        assert runner_up not in ("", "Paris")
        webdriver.ActionChains(page.driver).move_to_element(second).perform()
        page.until(lambda: page.marked() == runner_up)
        webdriver.ActionChains(page.driver).move_to_element(page.one("h1")).perform()
        page.until(lambda: page.marked() == "Paris")
        second.click()
        webdriver.ActionChains(page.driver).move_to_element(page.one("h1")).perform()
        page.driver.execute_script("document.activeElement.blur()")
        assert (second.get_attribute("aria-pressed"), first.get_attribute("aria-pressed")) == ("true", "false")
        page.until(lambda: page.marked() == runner_up)
        page.click(".texts mark", "Paris")  # and by the text itself
        page.until(lambda: page.marked() == "Paris")

    def test_no_answer_is_said(self, page: Page) -> None:
        self.ask(page, "Who wrote the code?")
        assert page.text(".verdict") == "No answer in this text"
        assert page.bars()["no answer"].endswith(" %")
        assert page.marked() == ""

    def test_documents_and_windows(self, page: Page) -> None:
        page.open()
        page.write("#qa-question", "What is the capital of France?")
        page.write("#qa-context-0", "dog " * 100)
        page.click(".add", "+ Add a document")
        assert page.focused().get_attribute("id") == "qa-context-1"
        page.focused().send_keys("The capital of France is Paris 😀.")
        page.run()
        assert page.marked() == "Paris"
        assert page.text(".answers button[aria-pressed=true] .where").startswith("document 2, ")
        (windows,) = [fact for fact in page.texts(".facts span") if fact.startswith("Read in")]
        assert int(windows.split()[2]) > 2
        assert "up to 64 tokens" in windows

    def test_the_window_that_an_answer_was_read_in(self, page: Page) -> None:
        context = "🚀 The capital of France is Paris. " + "dog " * 100 + "Berlin was a capital. " + "dog " * 100
        page.open()
        page.fill("#qa-question", "What is the capital of France?")
        page.fill("#qa-context-0", context)
        page.run()
        reply = page.reply()
        assert reply["windows"] > 4
        shown = {answer["text"]: answer["window"] for answer in reply["answers"]}
        assert shown["Paris"] != shown["Berlin"]
        for text in ("Paris", "Berlin"):
            button = next(each for each in page.all(".answers button") if each.text.startswith(text + "\n"))
            webdriver.ActionChains(page.driver).move_to_element(button).perform()
            page.until(lambda text=text: page.marked() == text)
            start, end = shown[text]["start"], shown[text]["end"]
            assert "".join(page.texts(".texts .read")) == context[start:end].strip()
            assert f"characters {start}–{end} of {len(context)}" in page.text(".legend")
            assert page.texts("mark.best") == ["Paris"]  # and it stays marked as the best, whatever is lit up
        assert page.driver.execute_script("return document.querySelectorAll('.texts :is(.from, .to)').length") == 2

    def test_a_text_that_was_read_whole_shows_no_window(self, page: Page) -> None:
        self.ask(page, "What is the capital of France?")
        assert page.texts(".texts .read") == []
        assert page.texts(".legend > span") == ["this answer", "another"]

    def test_options_as_bars(self, page: Page) -> None:
        page.open("options")
        page.write("#options-context", "The dog is outside.")
        page.write("#options-question", "Who is outside?")
        page.write("#options-options", "a cat\na dog\n\nmen")
        page.run()
        assert page.text(".verdict").startswith("a dog")
        assert set(page.bars()) == {"a cat", "a dog", "men"}


class TestLabels:
    def test_of_a_text(self, page: Page) -> None:
        page.open("text")
        page.write("#text-text", "a good, happy film")
        page.run()
        assert page.text(".verdict").startswith("positive")
        assert list(page.bars()) == ["positive", "negative"]
        width = page.driver.execute_script("return document.querySelector('#panel-text .bar.best .fill').style.width")
        assert float(width.removesuffix("%")) > 90

    def test_that_do_not_exclude_one_another_have_their_threshold(self, page: Page) -> None:
        page.open("text")
        page.write("#text-text", "a good, happy film")
        page.click("#panel-text select[name=model] option", "topics")
        page.run()
        assert page.text(".verdict").startswith("glad")
        ticks = page.driver.execute_script(
            "return [...document.querySelectorAll('#panel-text .tick')].map(({ style }) => style.left)"
        )
        assert ticks == ["70%", "70%"]
        page.write("#text-text", "a film")
        page.run()
        assert page.text(".verdict") == "No label holds"

    def test_of_a_pair(self, page: Page) -> None:
        page.open("nli")
        page.write("#nli-premise", "A man is playing soccer.")
        page.write("#nli-hypothesis", "A man is not playing soccer.")
        page.run()
        assert page.text(".verdict").startswith("contradiction")
        assert set(page.bars()) == {"entailment", "neutral", "contradiction"}

    def test_of_the_reader_s_own(self, page: Page) -> None:
        page.open("zero-shot")
        page.write("#zero-text", "The team won the soccer game.")
        page.write("#zero-labels", "politics, soccer ,film")
        page.run()
        assert page.text(".verdict").startswith("soccer")
        assert next(iter(page.bars())) == "soccer"


@pytest.mark.skipif("score" not in TASKS, reason="there is no such task yet")
class TestScores:
    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
        """Beside the other models, one that scores: the page has to name it, or another would answer."""
        folder = tmp_path_factory.mktemp("scores")
        for kind in ("nli", "sentiment"):
            (folder / kind).symlink_to(models / kind)
        make_bundle(folder, "rerank")
        make_bundle(folder, "rerank", name="raw", activation="identity")
        with running(folder, BERTIE_WORKERS="1") as service:
            yield service

    def test_one_number(self, page: Page) -> None:
        page.open("score")
        page.click("#panel-score select[name=model] option", "rerank")
        page.write("#score-text", "the capital of France")
        page.write("#score-pair", "Paris is the capital of France")
        page.run()
        assert float(page.text(".verdict").removesuffix(" %")) > 90
        page.click("#panel-score select[name=model] option", "raw")
        page.run()
        assert float(page.text(".verdict")) == pytest.approx(4.0)
        page.write("#score-pair", "A dog")
        page.run()
        assert float(page.text(".verdict")) == pytest.approx(-4.0)
        page.write("#score-pair", " ")
        assert '"text_pair"' not in page.code("curl")

    def test_a_ranking(self, page: Page) -> None:
        page.open("rank")
        page.click("#panel-rank select[name=model] option", "rerank")
        page.write("#rank-query", "the capital of France")
        page.write("#rank-texts", "A dog is outside.\nParis is the capital of France.\nFrance won.")
        page.run()
        assert page.text(".verdict").startswith("Paris is the capital of France.")
        assert page.texts(".bar .name") == ["Paris is the capital of France.", "France won.", "A dog is outside."]

    def test_rows_of_a_file(self, page: Page, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text("query,passage\ncapital of France,Paris is the capital of France\ncapital of France,a dog\n")
        page.open("file")
        page.upload(path)
        page.click("#file-task option", "Score")
        page.click("#file-model option", "raw")
        page.run_file()
        rows = list(csv.DictReader(io.StringIO(page.download("#save-csv").decode(), newline="")))
        assert [round(float(row["score"])) for row in rows] == [4, -4]
        assert page.text(".axis").split() == ["-4.0", "0.0", "4.0"]


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "encoding", "separator"),
        [("a.csv", "utf-8", ","), ("b.csv", "utf-8-sig", ";"), ("c.tsv", "utf-16", "\t")],
    )
    def test_upload_run_and_download(
        self, page: Page, tmp_path: Path, name: str, encoding: str, separator: str
    ) -> None:
        page.open("file")
        assert page.text("#no-results")
        page.upload(reviews(tmp_path, name, encoding=encoding, separator=separator))
        assert "4 rows, 3 columns" in page.text("#table-said")
        assert page.texts("#preview .chosen")[0] == "review"  # guessed by its name
        page.run_file()
        progress = page.one("#progress")
        assert (progress.get_attribute("value"), progress.get_attribute("max")) == ("4", "4")
        assert page.bars() == {"negative": "2 · 66.7 %", "positive": "1 · 33.3 %"}
        assert "1 row without a prediction" in page.text("#failures")
        assert "text is blank" in page.text("#failures")
        assert "text is blank" in page.texts("#rows tbody tr")[2]
        asked = page.driver.execute_script("return performance.getEntriesByType('resource').map(({ name }) => name)")
        assert asked.count(f"{page.url}/classify") == 1  # the blank row cost no other one
        assert page.one(".columns").get_attribute("aria-label").startswith("3 scores; most, 3, from 95 % to 100 %")

        saved = page.download("#save-csv")
        assert saved.startswith(b"\xef\xbb\xbf") == (encoding != "utf-8")
        rows = list(csv.DictReader(io.StringIO(saved.decode("utf-8-sig"), newline=""), delimiter=separator))
        assert [{field: row[field] for field in REVIEWS[0]} for row in rows] == REVIEWS
        assert [row["predicted"] for row in rows] == PREDICTED
        assert float(rows[0]["score: positive"]) > 0.9
        assert "blank" in rows[2]["error"]
        lines = [json.loads(line) for line in page.download("#save-jsonl").decode().splitlines()]
        assert [line.get("predicted", "") for line in lines] == PREDICTED
        assert lines[0]["review"] == REVIEWS[0]["review"]

    def test_old_spreadsheets(self, page: Page, tmp_path: Path) -> None:
        path = tmp_path / "old.csv"
        path.write_bytes("id;text\r\n1;good – €9\r\n".encode("cp1252"))
        page.open("file")
        page.upload(path)
        assert "windows-1252" in page.text("#table-said")
        page.run_file()
        assert "good – €9" in page.text("#rows table")

    def test_a_label_narrows_the_rows(self, page: Page, tmp_path: Path) -> None:
        page.open("file")
        page.upload(reviews(tmp_path))
        page.run_file()
        assert page.texts("#rows tbody td:first-child") == ["1", "2", "3", "4"]
        page.click("#counts button:has(.name)", page.all("#counts button")[1].text)  # positive
        assert page.texts("#rows tbody td:first-child") == ["1"]
        assert page.text("#spread h2") == "Scores of “positive”"
        page.click("#order option", "the least sure")
        page.click("#counts button", page.all("#counts button")[0].text)
        scores = page.texts("#rows tbody td:nth-child(3)")
        assert len(scores) == 2

    def test_columns_are_the_reader_s_choice(self, page: Page, tmp_path: Path) -> None:
        """Another task, a column by hand, and a text that all rows share."""
        page.open("file")
        page.upload(reviews(tmp_path))
        page.click("#file-task option", "Inference")
        page.click("#column-premise option", "review")
        page.click("#column-hypothesis option", "the same for every row…")
        page.click("#run-file")
        assert page.text("#said") == "Write the hypothesis that all rows share."
        page.write("[name=same-hypothesis]", "A happy film.")
        page.run_file()
        assert page.bars()["entailment"].startswith("1 ")

    def test_questions_of_json_lines(self, page: Page) -> None:
        rows = [
            {"question": "What is the capital of France?", "context": "The capital of France is Paris.", "n": 1},
            {"question": "What is the capital of France?", "context": ["A dog.", "The capital, Paris, of France."]},
            {"question": "Who wrote the code?", "context": "A dog is outside."},
        ]
        page.open("file")
        page.write("#paste", "\n".join(map(json.dumps, rows)))
        page.until(lambda: "3 rows" in page.text("#table-said"))
        page.run_file()
        assert page.bars() == {"answer": "2 · 66.7 %", "no answer": "1 · 33.3 %"}
        lines = [json.loads(line) for line in page.download("#save-jsonl").decode().splitlines()]
        assert [line["answer"] for line in lines] == ["Paris", "Paris", ""]
        assert lines[0]["context"][lines[0]["start"] : lines[0]["end"]] == "Paris"
        assert lines[0]["n"] == 1

    def test_zero_shot_rows_take_labels_with_them(self, page: Page, tmp_path: Path) -> None:
        page.open("file")
        page.upload(reviews(tmp_path))
        page.click("#file-task option", "Zero-shot")
        page.write("#file-labels", "")
        page.click("#run-file")
        assert "candidate label" in page.text("#said")
        page.write("#file-labels", "film, sad")
        page.run_file()
        assert set(page.bars()) <= {"film", "sad"}
        (first, *_) = [json.loads(line) for line in page.download("#save-jsonl").decode().splitlines()]
        assert first["score: film"] + first["score: sad"] == pytest.approx(1)

    def test_a_file_dropped_anywhere_and_a_large_paste(self, page: Page) -> None:
        """The events that a browser sends: its own drag and clipboard cannot be driven."""
        page.open("qa")
        page.driver.execute_script("""
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["text\\ngood\\nbad\\n"], "dropped.csv"));
            const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            document.querySelector("h1").dispatchEvent(event);
        """)
        page.until(lambda: page.text("#table-said").startswith("dropped.csv: 2 rows"))
        page.driver.execute_script("""
            const clipboardData = new DataTransfer();
            clipboardData.setData("text/plain", "text\\n" + "a good film\\n".repeat(6000));
            const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
            document.querySelector("#paste").dispatchEvent(event);
        """)
        page.until(lambda: page.text("#table-said").startswith("pasted rows: 6,000 rows"))
        assert page.one("#paste").get_attribute("value") == ""

    def test_the_first_row_may_be_a_row(self, page: Page, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("good,bad\nfun,sad\n")
        page.open("file")
        page.upload(path)
        assert "1 row," in page.text("#table-said")
        page.click("[name=header]")
        page.until(lambda: "2 rows," in page.text("#table-said"))

    @pytest.mark.parametrize(("text", "words"), [("", "holds no text"), ('{"a": 1}\n{', "Line 2 is not JSON")])
    def test_what_is_no_table_is_told(self, page: Page, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "bad.jsonl"
        path.write_text(text)
        page.open("file")
        page.upload(path)
        assert words in page.text("#table-said")
        assert page.all("#run-file") == []

    def test_fifty_thousand_rows_do_not_freeze_the_page(self, page: Page, tmp_path: Path) -> None:
        path = tmp_path / "large.csv"
        path.write_text("id,text\n" + "".join(f'{i},"a good film, number {i}"\n' for i in range(50_000)))
        page.open("file")
        page.driver.execute_script("""
            window.longest = 0;
            new PerformanceObserver((list) => {
                for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
            }).observe({ type: "longtask" });
        """)
        page.upload(path)
        page.until(lambda: "50,000 rows" in page.text("#table-said"))
        page.click("summary", "Pace")
        page.click("#size option", "8")
        page.click("#run-file")
        page.until(lambda: int(page.one("#progress").get_attribute("value")) > 100)
        page.click("#cancel")
        page.until(lambda: page.text("#said").startswith("Cancelled"))
        done = int(page.one("#progress").get_attribute("value"))
        assert 100 < done < 50_000
        assert page.driver.execute_script("return window.longest") < 1000  # ms
        rows = list(csv.DictReader(io.StringIO(page.download("#save-csv").decode(), newline="")))
        assert len(rows) == 50_000
        assert sum(row["predicted"] == "positive" for row in rows) == done
        page.click("#continue")
        page.until(lambda: int(page.one("#progress").get_attribute("value")) > done)
        page.click("#cancel")

    def test_a_full_service_is_waited_for(self, driver: Any, models: Path, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("text\n" + "a good film\n" * 128)
        with running(models, BERTIE_MAX_REQUESTS="1", BERTIE_WORKERS="1") as tight:
            page = page_of(driver, tight.url, tmp_path)
            page.open("file")
            page.upload(path)
            page.click("#run-file")
            page.until(lambda: "the service is full and asks to wait" in page.text("#numbers"))
            page.until(lambda: page.text("#said").startswith("Done"))
            assert page.bars() == {"positive": "128 · 100.0 %"}
        statuses = {record.get("status") for record in tight.log}
        assert {200, 429} <= statuses


class TestCalls:
    """The snippets, copied and run."""

    BODY: ClassVar = {"text": 'it\'s a "good" film 😀 $HOME `id` \\'}

    def commands(self, way: str, code: str) -> list[str]:
        return {"curl": ["bash", "-c", code], "Python": [sys.executable, "-c", code]}.get(
            way, ["node", "--input-type=module", "--eval", code]
        )

    @pytest.mark.parametrize("way", ["curl", "Python", "JavaScript"])
    def test_what_is_copied_gets_what_is_shown(self, page: Page, way: str) -> None:
        tool = {"curl": "curl", "JavaScript": "node"}.get(way)
        if tool and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
        page.open("text")
        page.fill("#text-text", self.BODY["text"])
        page.run()
        shown = page.reply()
        done = subprocess.run(self.commands(way, page.code(way)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert [label for label, score in shown["scores"].items() if str(score)[:9] not in done.stdout] == []

    def called(self, page: Page) -> Any:
        """What `huggingface_hub`'s client answers, by the snippet as it is copied."""
        pytest.importorskip("huggingface_hub")
        code = page.code("InferenceClient") + "\nimport json\nprint(json.dumps(answer))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @pytest.mark.parametrize("no_answer", [True, False])
    def test_the_client_answers_as_the_page_does(self, page: Page, no_answer: bool) -> None:
        page.open()
        page.fill("#qa-question", "What is the capital of France?")
        page.fill("#qa-context-0", 'The "capital" of France 🚀 is Paris. A dog saw Berlin.')
        if not no_answer:
            page.click("#panel-qa [name=no_answer]")
        page.run()
        shown = page.reply()
        answers = [(each["text"], each["start"], each["end"], each["score"]) for each in shown["answers"]]
        assert len(answers) == 3
        if no_answer:
            answers = sorted([*answers, ("", 0, 0, shown["no_answer_score"])], key=lambda each: (-each[-1], each[0]))
        called = [(each["answer"], each["start"], each["end"], each["score"]) for each in self.called(page)]
        assert called == answers[:3]

    @pytest.mark.parametrize(
        ("tab", "chosen"),
        [
            ("text", "option[value=sentiment]"),
            ("text", "option[value=topics]"),
            ("nli", None),
            ("zero-shot", None),
            ("zero-shot", "[name=multi_label]"),
        ],
    )
    def test_the_client_scores_as_the_page_does(self, page: Page, tab: str, chosen: str | None) -> None:
        page.open(tab)
        if chosen:
            page.click(f"#panel-{tab} {chosen}")
        page.run()
        shown = page.reply()
        assert len(shown["scores"]) > 1
        assert {each["label"]: each["score"] for each in self.called(page)} == pytest.approx(shown["scores"])

    def test_a_call_that_the_client_has_not_is_said(self, page: Page) -> None:
        page.open("options")
        assert page.code("InferenceClient") == "# InferenceClient has no call for multiple choice."

    def test_rows_of_a_file(self, page: Page, tmp_path: Path) -> None:
        page.open("file")
        assert page.all(".code") == []
        page.upload(reviews(tmp_path))
        assert page.text(".code h2").endswith("for the first 3 rows")
        code = page.code("Python")
        assert '"inputs": [' in code
        assert "awful, boring\\nand sad" in code


class TestKey:
    def test_is_asked_for_used_and_kept_out_of_snippets(self, driver: Any, models: Path, tmp_path: Path) -> None:
        with running(models, BERTIE_API_KEYS="s3cret", BERTIE_WORKERS="1") as closed:
            page = page_of(driver, closed.url, tmp_path)
            driver.get("about:blank")
            driver.get(closed.url)
            page.until(lambda: page.all("#key"))
            assert page.focused().get_attribute("id") == "token"
            page.focused().send_keys("wrong", Keys.ENTER)
            page.until(lambda: page.texts("#token-help") == ["That key was refused. Check it and try once more."])
            page.focused().send_keys("s3cret", Keys.ENTER)
            page.until(lambda: page.all("#models a"))
            assert page.all("#key") == []
            page.run()
            assert page.all(".verdict")
            for way in ("curl", "Python", "InferenceClient", "JavaScript"):
                code = page.code(way)
                assert "BERTIE_KEY" in code
                assert "s3cret" not in code


class TestUse:
    def test_live_figures(self, page: Page) -> None:
        page.open("text")
        page.until(lambda: page.all("#live"))
        page.run()
        page.until(lambda: "1.0" in page.texts("#live dd"))  # rows a batch
        assert page.texts("#live dt")[0] == "Rows waiting"
        assert page.texts("nav a") == ["API docs", "Metrics"]

    def test_no_figures_where_metrics_are_hidden(self, page: Page) -> None:
        """As by a proxy that lets nobody ask for them."""
        script = """
            const real = window.fetch;
            window.asked = 0;
            window.fetch = (url, options) => {
                if (url !== "metrics") return real(url, options);
                window.asked += 1;
                return Promise.resolve(new Response("", { status: 404 }));
            };
        """
        added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        try:
            page.open(live=False)
            page.run()
            time.sleep(2.5)
            assert page.all("#live") == []
            assert page.texts("nav a") == ["API docs"]
            assert page.driver.execute_script("return window.asked") == 1  # and it does not ask again and again
        finally:
            page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def test_a_service_that_is_gone_is_said_in_words(self, page: Page) -> None:
        page.open()
        page.until(lambda: page.all("#live"))
        page.driver.execute_cdp_cmd("Network.enable", {})
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [f"{page.url}/*"]})
        try:
            page.click(".run")
            page.until(lambda: "cannot be reached" in page.text(".problem h2"))
            page.until(lambda: not page.all("#live"))
        finally:
            page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        page.until(lambda: page.all("#live"))  # and it comes back
        page.driver.get_log("browser")

    def test_an_error_is_told_in_words_where_it_is(self, page: Page) -> None:
        page.open("nli")
        page.write("#nli-hypothesis", " ")
        page.run()
        assert page.text(".problem h2") == "422 Invalid input"
        assert "blank" in page.text(".problem p")
        assert page.one("#nli-hypothesis").get_attribute("aria-invalid") == "true"
        page.one("#nli-hypothesis").send_keys("x")
        assert page.one("#nli-hypothesis").get_attribute("aria-invalid") is None

    def test_by_keyboard_alone(self, page: Page) -> None:
        page.open("qa")
        page.driver.execute_script("document.querySelector('#tab-qa').focus()")
        page.press(Keys.ARROW_LEFT)  # around the end
        assert page.focused().get_attribute("id") == "tab-file"
        page.press(Keys.HOME)
        page.press(Keys.ARROW_RIGHT)
        page.press(Keys.ARROW_RIGHT)
        assert page.focused().get_attribute("id") == "tab-text"
        outline = page.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.press(Keys.TAB)  # past the other tabs, to the first example
        assert page.focused().text == "Warm"
        page.press(Keys.CONTROL, Keys.ENTER)
        page.until(lambda: page.all(".verdict"))
        said = page.driver.execute_script("return document.querySelector('#panel-text [role=status]').textContent")
        assert said == page.text(".verdict")

    @pytest.mark.parametrize("tab", ["qa", "options", "text", "nli", "zero-shot", "file"])
    def test_a_narrow_screen_scrolls_down_alone(self, page: Page, tmp_path: Path, tab: str) -> None:
        size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        page.open(tab)
        if tab == "file":
            page.upload(reviews(tmp_path))
            page.run_file()
        else:
            page.run()
        page.until(lambda: page.all("#live"))
        wide = page.driver.execute_script("""
            const inside = (e) => e.closest(".scroll, .tabs, .models, pre, .unseen, svg");
            return [...document.querySelectorAll("body *")]
              .filter((e) => e.checkVisibility() && !inside(e) && e.getBoundingClientRect().right > 361)
              .map((e) => e.tagName + " " + e.className);
        """)
        assert wide == []
        assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read_in_both_schemes(self, page: Page, scheme: str) -> None:
        """WCAG's contrast, 4.5 to 1, of every text on the ground that it stands on."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        page.open("qa")
        page.run()
        pale = page.driver.execute_script("""
            const parse = (color) => color.match(/[\\d.]+/g).map(Number);
            const light = (color) => parse(color).slice(0, 3).map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
              .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = (e) => {
              for (; e; e = e.parentElement) {
                const [, , , alpha = 1] = parse(getComputedStyle(e).backgroundColor);
                if (alpha > 0.99) return getComputedStyle(e).backgroundColor;
              }
            };
            const written = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            const shown = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && written(e));
            return shown.map((e) => {
              const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
              return [e.tagName + "." + e.className + " " + e.textContent.slice(0, 20), (a + 0.05) / (b + 0.05)];
            }).filter(([, contrast]) => contrast < 4.5);
        """)
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        assert pale == []
