// The tab that asks of every row of a file: reads the table, lets columns be chosen, runs, draws what came, saves it.
//
// The file stays in the browser: what is sent is the chosen columns, to this service alone.

import { renderProblem } from "./answers.js";
import { askAll, Stopped } from "./batch.js";
import { barParts, histogram } from "./charts.js";
import { CodeBox } from "./code.js";
import { $, collect, el, save } from "./dom.js";
import { offerModels } from "./form.js";
import { exchange, loaded } from "./service.js";
import { decode, readTable, TableError, writeDelimited, writeJsonLines } from "./table.js";
import { TASKS } from "./tasks.js";
import { count, duration, figure, isBlank, many, percent } from "./text.js";

const MOST_BYTES = 64 << 20; // of a file: the page holds all of it
const LARGE_PASTE = 50_000; // characters that a text area would be slow with
const PREVIEW = 4;
const SHOWN = 25; // rows of the table of results
const LABELS = 12; // bars of the counts
const EVERY = 200; // ms between two drawings
const IN_CODE = 3; // rows that the snippets ask of
const [SAME, NONE] = ["same", "none"]; // instead of a column
const SEPARATORS = { ",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars" };
const SAMPLES = {
  Reviews: ["reviews.csv", [
    "id,review",
    '1,"A quiet, generous film that earns every one of its tears."',
    '2,"Two hours long, and it feels like four."',
    '3,"He says ""trust me"" a dozen times. I never did."',
    "4,The best thing I have seen on a stage this year.",
    '5,"Lovely to look at, but the story never quite wakes up."',
    "6,I laughed until the people behind me asked me to stop.",
    "7,A waste of a fine cast and of my evening.",
    "8,Slow to begin with and impossible to leave.",
  ].join("\n")],
  Questions: ["questions.jsonl", [
    { question: "Who designed the bridge?", context: "The bridge was designed by John Fowler and Benjamin Baker." },
    { question: "When was it opened?", context: "After seven years of work the bridge was opened on 4 March 1890." },
    { question: "How long is it?", context: "The bridge is painted red and carries two railway tracks." },
    { question: "What does it cross?", context: "It crosses the Firth of Forth, west of Edinburgh." },
  ].map((row) => JSON.stringify(row)).join("\n")],
  Pairs: ["pairs.tsv", [
    "premise\thypothesis",
    "A man is repairing a bicycle outside a café.\tSomeone is fixing a bike.",
    "A man is repairing a bicycle outside a café.\tThe man is asleep in his bed.",
    "A man is repairing a bicycle outside a café.\tThe bicycle belongs to his daughter.",
  ].join("\n")],
};

/** A cell as the text that is sent; several documents stay several. */
const cell = (value) =>
  typeof value === "string" || (Array.isArray(value) && value.every((part) => typeof part === "string"))
    ? value
    : value === undefined || value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

/** Which of a row's texts is blank, in words; null where none is. */
function blank(input, fields) {
  const field = fields.find((name) => name in input && ([input[name]].flat().some(isBlank) || input[name].length === 0));
  return field ? `${field} is blank: it was not sent` : null;
}

/** The column that a field is most likely in: one with such a name, else the wordiest that no other field has; an optional
 * one is in none that has no such name. */
export function likelyColumn({ columns, rows }, names, taken, optional = false) {
  const lower = columns.map((name) => name.toLowerCase());
  for (const name of names) {
    const index = lower.indexOf(name);
    if (index >= 0 && !taken.has(index)) return index;
  }
  if (optional) return null;
  const width = (index) => rows.slice(0, 20).reduce((sum, row) => sum + cell(row[index]).length, 0);
  const free = columns.map((_, index) => index).filter((index) => !taken.has(index));
  return free.sort((a, b) => width(b) - width(a))[0] ?? 0;
}

/** One run over a table: what is asked, and what came. */
class Job {
  constructor(table, source, task, input, body, pace) {
    Object.assign(this, { table, source, task, input, body, pace });
    this.total = table.rows.length;
    this.predictions = new Array(this.total);
    this.scores = new Float64Array(this.total).fill(NaN);
    this.reasons = new Map(); // index to why there is no prediction
    this.counts = new Map(); // label to rows
    this.done = 0;
    this.held = { until: 0, words: "" }; // why nothing is asked just now, and how long, by performance.now()
    this.running = null; // the AbortController while it runs
    this.stopped = null; // the problem that ended it early
  }

  settle(index, prediction, reason) {
    this.done += 1;
    if (!prediction) return void this.reasons.set(index, reason);
    this.predictions[index] = prediction;
    this.scores[index] = this.task.rows.scored(prediction);
    for (const label of this.task.rows.counted(prediction)) this.counts.set(label, (this.counts.get(label) ?? 0) + 1);
  }

  get todo() {
    return [...this.predictions.keys()].filter((index) => !this.predictions[index] && !this.reasons.has(index));
  }

  /** Indices of the predicted rows, of one label's where one is given. */
  indices(label) {
    const found = [];
    this.predictions.forEach((prediction, index) => { // passes over what has none yet
      if (label === null || this.task.rows.counted(prediction).includes(label)) found.push(index);
    });
    return found;
  }

  /** What a row's prediction adds to the table. */
  added(index) {
    if (this.predictions[index]) return this.task.rows.columns(this.predictions[index]);
    return this.reasons.has(index) ? { error: this.reasons.get(index) } : {};
  }
}

export class FilePanel {
  name = "file";
  source = null; // {name, text, bom, header}
  table = null;
  job = null;
  label = null; // the label that the results are narrowed to
  bars = new Map(); // label to its bar

  /** @param needsKey called with what to run when the service wants a key */
  constructor(needsKey) {
    this.needsKey = needsKey;
    this.tab = $("#tab-file");
    this.root = $("#panel-file");
    this.form = $("form", this.root);
    this.controls = this.form.elements;
    this.code = new CodeBox(this.root, this.name, () => this.call());

    this.controls.file.addEventListener("change", () => {
      const [file] = this.controls.file.files;
      if (file) this.open(file);
      this.controls.file.value = ""; // so that the same file can be chosen again
    });
    const paste = this.controls.paste;
    let pause = 0;
    paste.addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => paste.value.trim() && this.read({ name: "pasted rows", text: paste.value, bom: false }), 300);
    });
    paste.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      const text = event.clipboardData.getData("text/plain");
      if (!file && text.length < LARGE_PASTE) return;
      event.preventDefault();
      if (file) this.open(file);
      else this.read({ name: "pasted rows", text, bom: false });
    });
    for (const [title, [name, text]] of Object.entries(SAMPLES)) {
      const chip = el("button", { type: "button" }, title);
      chip.addEventListener("click", () => this.read({ name, text, bom: false }));
      $(".examples", this.form).append(chip);
    }
    this.controls.header.addEventListener("change", () =>
      this.read({ ...this.source, header: this.controls.header.checked }));
    this.controls.task.addEventListener("change", () => this.chooseTask());
    this.form.addEventListener("input", () => this.changed());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    $("#cancel").addEventListener("click", () => this.job.running?.abort(new DOMException("Cancelled", "AbortError")));
    $("#continue").addEventListener("click", () => this.go());
    $("#order").addEventListener("change", () => this.drawRows());
    $("#save-csv").addEventListener("click", () => this.save("csv"));
    $("#save-jsonl").addEventListener("click", () => this.save("jsonl"));
    addEventListener("beforeunload", (event) => this.job?.running && event.preventDefault());
  }

  // ---- the table ----

  async open(file) {
    if (file.size > MOST_BYTES)
      return this.refuse(`${file.name} has ${count(file.size / 2 ** 20)} MB. This page takes ${MOST_BYTES / 2 ** 20} MB; for more, call the service from a program.`);
    const { text, encoding, bom } = decode(await file.arrayBuffer());
    await this.read({ name: file.name, text, bom: bom || encoding !== "utf-8", encoding });
  }

  async read(source) {
    this.source = source;
    const said = $("#table-said");
    said.classList.remove("bad");
    try {
      const table = await readTable(source.text, {
        header: source.header ?? null,
        collect: (items) => collect(items, (length) => (said.textContent = `Reading ${source.name}: ${many(length, "row")}…`)),
      });
      if (this.source === source) this.take(table);
    } catch (error) {
      if (!(error instanceof TableError)) throw error;
      if (this.source === source) this.refuse(`${source.name} cannot be read as a table. ${error.message}`);
    }
  }

  refuse(words) {
    $("#table-said").textContent = words;
    $("#table-said").classList.add("bad");
    this.table = null;
    $("#table").hidden = true;
    this.code.draw();
  }

  take(table) {
    this.table = table;
    const { kind, separator, columns, rows } = table;
    const { name, encoding } = this.source;
    const form = kind === "jsonl" ? "JSON" : separator === null || columns.length === 1 ? "a text a line" : `separated by ${SEPARATORS[separator]}`;
    const odd = encoding && encoding !== "utf-8" ? `, read as ${encoding}` : "";
    $("#table-said").textContent = `${name}: ${many(rows.length, "row")}, ${many(columns.length, "column")}, ${form}${odd}.`;
    $("#table").hidden = false;
    this.controls.header.closest("label").hidden = kind === "jsonl";
    this.controls.header.checked = table.header;
    const fitting = this.tasks().filter(({ task }) => Object.values(task.rows.fields).every((names) =>
      columns.some((column) => names.includes(column.toLowerCase()))));
    const most = fitting.sort((a, b) => Object.keys(b.task.rows.fields).length - Object.keys(a.task.rows.fields).length)[0];
    const text = this.tasks().find(({ task }) => Object.keys(task.rows.fields).length === 1);
    const likely = most ?? text;
    if (likely) this.controls.task.value = likely.name;
    this.chooseTask();
  }

  /** The tasks that a file can be asked of and a loaded model does. */
  tasks() {
    return Object.entries(TASKS)
      .filter(([, task]) => task.rows && loaded().some(task.suits))
      .map(([name, task]) => ({ name, task }));
  }

  task() {
    return TASKS[this.controls.task.value];
  }

  chooseTask() {
    const task = this.task();
    if (!task || !this.table) return;
    offerModels(this.controls.model, task);
    for (const part of this.form.querySelectorAll("[data-task]")) part.hidden = part.dataset.task !== this.controls.task.value;
    const taken = new Set();
    $("#fields").replaceChildren(...Object.entries(task.rows.fields).map(([field, names]) => {
      const index = likelyColumn(this.table, names, taken, task.rows.optional?.includes(field));
      taken.add(index);
      const select = el("select", { name: `column-${field}`, id: `column-${field}` },
        ...this.table.columns.map((column, value) => el("option", { value }, column)),
        el("option", { value: SAME }, "the same for every row…"),
        task.rows.optional?.includes(field) && el("option", { value: NONE }, "nothing"));
      const same = el("input", { name: `same-${field}`, hidden: true, dir: "auto", autocomplete: "off", aria: { label: `${field} of every row` } });
      select.value = String(index ?? NONE);
      select.addEventListener("change", () => (same.hidden = select.value !== SAME) || same.focus());
      return el("div", { className: "field" }, el("label", { htmlFor: select.id }, `${field[0].toUpperCase()}${field.slice(1)}`), select, same);
    }));
    this.changed();
  }

  changed() {
    const { table } = this;
    if (table) {
      const chosen = new Set([...$("#fields").querySelectorAll("select")].map((select) => select.value));
      const mark = (tag, index, ...children) => el(tag, { className: chosen.has(String(index)) ? "chosen" : "", dir: "auto" }, ...children);
      $("#preview").replaceChildren(
        el("thead", {}, el("tr", {}, ...table.columns.map((name, index) => mark("th", index, name)))),
        el("tbody", {}, ...table.rows.slice(0, PREVIEW).map((row) =>
          el("tr", {}, ...table.columns.map((_, index) => mark("td", index, String(cell(row[index])).slice(0, 200)))))));
    }
    this.code.draw();
  }

  // ---- asking ----

  /** Index to the input that is asked of that row. */
  input() {
    const { table, controls } = this;
    const task = this.task();
    const each = task.rows.each?.(controls) ?? {};
    const fields = Object.keys(task.rows.fields).map((field) => [field, controls[`column-${field}`].value, controls[`same-${field}`].value]);
    const chosen = fields.filter(([, column]) => column !== NONE);
    return (index) => ({
      ...Object.fromEntries(chosen.map(([field, column, same]) => [field, column === SAME ? same : cell(table.rows[index][column])])),
      ...each,
    });
  }

  shared() {
    const { model } = this.controls;
    return { ...this.task().rows.shared?.(this.controls), ...(model.value && { model: model.value }) };
  }

  /** What the snippets ask: the first rows. */
  call() {
    const task = this.task();
    if (!this.table || !task) return null;
    const inputs = [...this.table.rows.slice(0, IN_CODE).keys()].map(this.input());
    return { route: task.route, body: { inputs, ...this.shared() }, task, about: `the first ${many(inputs.length, "row")}` };
  }

  /** What keeps the form from being asked, in words. */
  wrong() {
    if (!this.table) return "Choose a file first, or paste rows.";
    const task = this.task();
    if (!task) return "None of the loaded models can be asked of rows.";
    const { candidate_labels, hypothesis_template } = task.rows.each?.(this.controls) ?? {};
    if (candidate_labels?.length === 0) return "Name one candidate label or more, separated by commas.";
    if (hypothesis_template !== undefined && hypothesis_template.split("{}").length !== 2) return "The hypothesis template must hold {} once, where the label goes.";
    const blank = Object.keys(task.rows.fields).find((field) =>
      this.controls[`column-${field}`].value === SAME && !this.controls[`same-${field}`].value.trim());
    return blank ? `Write the ${blank} that all rows share.` : null;
  }

  run() {
    if (this.job?.running) return;
    const wrong = this.wrong();
    if (wrong) return this.say(wrong);
    const pace = { lanes: Number(this.controls.lanes.value), size: Number(this.controls.size.value) };
    this.job = new Job(this.table, this.source, this.task(), this.input(), this.shared(), pace);
    this.label = null;
    this.bars.clear();
    $("#counts ul").replaceChildren();
    $("#results").hidden = false;
    $("#no-results").hidden = true;
    this.go();
  }

  /** Asks of the rows that are left. */
  async go() {
    const { job } = this;
    const { task, body, pace } = job;
    job.running = new AbortController();
    job.stopped = null;
    const [began, before] = [performance.now(), job.done];
    let quarter = Math.floor((4 * job.done) / job.total);
    this.say(`Started: ${many(job.total - job.done, "row")}.`);
    this.beat(began, before);
    if ($("#results").getBoundingClientRect().top > innerHeight - 120) $("#results").scrollIntoView();
    try {
      await askAll({
        todo: job.todo,
        ask: (inputs, signal) => exchange(task.route, { inputs, ...body }, signal),
        input: job.input,
        wrong: (input) => blank(input, Object.keys(task.rows.fields)), // a refusal would cost its request's other rows a second one
        ...pace,
        signal: job.running.signal,
        settle: (...what) => {
          job.settle(...what);
          const reached = Math.floor((4 * job.done) / job.total);
          if (reached > quarter && reached < 4) this.say(`${25 * (quarter = reached)} % done.`);
        },
        waits: (seconds, { status, title }) => (job.held = {
          until: performance.now() + 1000 * seconds,
          words: status === 429 ? `the service is full and asks to wait ${duration(seconds)}` : `${title}: trying again in ${duration(seconds)}`,
        }),
      });
      const { size } = job.reasons;
      this.say(`Done: ${many(job.total - size, "prediction")}${size ? `, ${many(size, "row")} without` : ""}.`);
    } catch (error) {
      if (error instanceof Stopped) job.stopped = error.problem;
      else if (error.name !== "AbortError") throw error;
      this.say(`${job.stopped ? `Stopped: ${job.stopped.title}` : "Cancelled"}. ${count(job.done)} of ${many(job.total, "row")} done.`);
      if (job.stopped?.status === 401) this.needsKey({ run: () => this.go() });
    } finally {
      job.running = null;
      job.seconds = (performance.now() - began) / 1000;
      this.draw(began, before);
    }
  }

  /** Draws while the job runs, however fast answers come: every so often, and for a tenth of the time at most. */
  beat(began, before) {
    const { job } = this;
    const since = performance.now();
    this.draw(began, before);
    const pause = Math.max(EVERY, 9 * (performance.now() - since));
    setTimeout(() => this.job === job && job.running && this.beat(began, before), pause);
  }

  say(words) {
    $("#said").textContent = words;
  }

  // ---- what came ----

  draw(began, before) {
    const { job } = this;
    const bar = $("#progress");
    bar.max = job.total;
    bar.value = job.done;
    const running = job.running !== null;
    const seconds = running ? (performance.now() - began) / 1000 : job.seconds;
    const rate = (job.done - before) / Math.max(seconds, 0.001);
    const left = job.total - job.done;
    $("#numbers").textContent = [
      `${count(job.done)} of ${many(job.total, "row")}`,
      rate > 0 && `${figure(rate)} rows a second`,
      running && rate > 0 && left > 0 && seconds > 1 && `about ${duration(left / rate)} left`,
      !running && left === 0 && `in ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`,
      running && performance.now() < job.held.until && job.held.words,
    ].filter(Boolean).join(" · ");
    $("#cancel").hidden = !running;
    $("#continue").hidden = running || left === 0;
    $("#run-file").disabled = running;
    $("#stopped").replaceChildren(...(job.stopped ? [renderProblem(job.stopped)] : []));
    for (const id of ["#save-csv", "#save-jsonl"]) $(id).disabled = job.done === 0;
    this.drawFailures();
    this.drawCounts();
    this.drawRows();
  }

  drawFailures() {
    const reasons = new Map();
    for (const [index, reason] of this.job.reasons) reasons.set(reason, [...(reasons.get(reason) ?? []), index + 1]);
    $("#failures").hidden = reasons.size === 0;
    $("#failures ul").replaceChildren(...[...reasons].slice(0, 5).map(([reason, rows]) =>
      el("li", {}, `${reason} (row ${rows.slice(0, 5).map(count).join(", ")}${rows.length > 5 ? ` and ${count(rows.length - 5)} more` : ""})`)));
    $("#failures p").textContent = `${many(this.job.reasons.size, "row")} without a prediction`;
  }

  /** One bar a label, each kept as an element so that the focus stays where it is. */
  drawCounts() {
    const { counts, done, reasons } = this.job;
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    const rows = Math.max(1, done - reasons.size);
    const shown = ranked.slice(0, LABELS);
    for (const [label, number] of shown) {
      if (!this.bars.has(label)) {
        const button = el("button", { type: "button", className: "bar", aria: { pressed: false } });
        button.addEventListener("click", () => {
          this.label = this.label === label ? null : label;
          for (const [name, other] of this.bars) other.setAttribute("aria-pressed", name === this.label);
          this.drawRows();
        });
        this.bars.set(label, button);
      }
      this.bars.get(label).replaceChildren(...barParts(label, `${count(number)} · ${percent(number / rows)}`, number / rows));
    }
    const list = $("#counts ul");
    const order = shown.map(([label]) => this.bars.get(label));
    const stands = [...list.children].map((item) => item.firstElementChild);
    if (order.length !== stands.length || (order.some((bar, i) => bar !== stands[i]) && !list.contains(document.activeElement)))
      list.replaceChildren(...order.map((bar) => el("li", {}, bar)));
    $("#counts").hidden = ranked.length === 0;
    $("#counts .quiet").textContent = ranked.length > LABELS ? `and ${many(ranked.length - LABELS, "more label")}` : "Choose one to see its rows alone.";
  }

  /** The histogram, and some rows with what was predicted, or why nothing was. */
  drawRows() {
    const { job } = this;
    const indices = job.indices(this.label);
    const about = this.label === null ? "" : ` of “${this.label}”`;
    $("#spread").hidden = indices.length === 0;
    $("#spread h2").textContent = `Scores${about}`;
    if (indices.length) $("#spread > div").replaceChildren(histogram(indices.map((index) => job.scores[index])));
    const order = $("#order").value;
    const listed = order === "first" && this.label === null ? [...indices, ...job.reasons.keys()] : indices;
    if (order === "first") listed.sort((a, b) => a - b);
    else listed.sort((a, b) => (job.scores[a] - job.scores[b]) * (order === "least" ? 1 : -1));
    $("#rows").hidden = job.done === 0;
    const fields = Object.keys(job.task.rows.fields);
    const titles = ["row", "prediction", "score", ...fields];
    $("#rows table").replaceChildren(
      el("thead", {}, el("tr", {}, ...titles.map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, ...listed.slice(0, SHOWN).map((index) => {
        const input = job.input(index);
        const prediction = job.predictions[index];
        const said = prediction ? prediction.answer?.text || job.task.rows.counted(prediction).join(", ") || "–" : job.reasons.get(index);
        const score = job.scores[index];
        return el("tr", {},
          el("td", { className: "number" }, count(index + 1)),
          el("td", { className: `said${prediction ? "" : " bad"}`, dir: "auto" }, said),
          el("td", { className: "number" }, !prediction ? "" : score >= 0 && score <= 1 ? percent(score) : score.toFixed(3)),
          ...fields.map((field) => el("td", { dir: "auto" }, String(input[field] ?? "").slice(0, 300))));
      })));
    $("#rows p").textContent = listed.length > SHOWN ? `${SHOWN} of ${many(listed.length, "row")}${about}; the download has all.` : `${many(listed.length, "row")}${about}.`;
  }

  async save(kind) {
    const { job } = this;
    const separator = job.table.separator ?? ",";
    const added = (index) => job.added(index);
    const lines = await collect(kind === "csv" ? writeDelimited(job.table, added, separator) : writeJsonLines(job.table, added));
    const csv = kind === "csv" && separator === "\t" ? "tsv" : kind;
    const name = `${job.source.name.replace(/\.\w+$/, "").replaceAll(" ", "-")}.predicted.${csv}`;
    if (kind === "csv" && job.source.bom) lines.unshift("\ufeff"); // spreadsheets that wrote one want one
    save(name, kind === "csv" ? "text/csv;charset=utf-8" : "application/x-ndjson", lines);
  }

  /** Offers what the loaded models can do: nothing, where none can be asked of rows. */
  offer() {
    const tasks = this.tasks();
    this.tab.hidden = tasks.length === 0;
    const before = this.controls.task.value;
    this.controls.task.replaceChildren(...tasks.map(({ name, task }) => el("option", { value: name }, task.title)));
    if (tasks.some(({ name }) => name === before)) this.controls.task.value = before;
    this.chooseTask();
    this.changed();
  }
}
