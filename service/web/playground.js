// The playground: five forms over the service's HTTP contract. No framework, no build, nothing from elsewhere.
//
// A caller's text reaches the page through text nodes alone. What a tab shows is what was sent and what came back:
// the request is kept beside its answer, so editing the form never moves a highlight.

const PHASES = ["tokenize", "queue", "inference", "decode"];
const ZERO_SHOT_TEMPLATE = "This example is about {}.";
const BRIDGE =
  "The Forth Bridge, a railway bridge across the Firth of Forth in Scotland, was opened on 4 March 1890 by the " +
  "Prince of Wales. Designed by John Fowler and Benjamin Baker, it had the longest cantilever span in the world " +
  "until 1919, when the Quebec Bridge was finished. Painting it was long a byword for a job that never ends.";

// ---- text ----

/** UTF-16 range of the half-open code point range [start, end) of `text`. */
export function codeUnits(text, start, end) {
  const range = [text.length, text.length];
  let point = 0;
  for (let unit = 0; unit < text.length; point++) {
    if (point === start) range[0] = unit;
    if (point === end) {
      range[1] = unit;
      break;
    }
    unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
  }
  return range;
}

/** `text` as one word of a POSIX shell. */
export const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Milliseconds by name of a Server-Timing header (W3C Server Timing, section 2). */
export function serverTiming(header) {
  const durations = new Map();
  for (const metric of (header ?? "").split(",")) {
    const [name, ...parameters] = metric.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => /^dur\s*=/i.test(parameter));
    if (name && duration) durations.set(name, Number(duration.split("=")[1].replaceAll('"', "")) || 0);
  }
  return durations;
}

export function percent(score) {
  if (score > 0 && score < 0.001) return "< 0.1 %";
  if (score < 1 && score > 0.999) return "> 99.9 %";
  return `${(100 * score).toFixed(1)} %`;
}

const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;

// ---- the page's parts ----

const $ = (selector, root = document) => root.querySelector(selector);

/** An element; strings among `children` become text nodes, null and false are left out. */
function el(tag, properties, ...children) {
  const { role, aria = {}, ...rest } = properties ?? {};
  const element = Object.assign(document.createElement(tag), rest);
  if (role) element.setAttribute("role", role);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function track(score) {
  const fill = el("span", { className: "fill" });
  fill.style.width = `${100 * Math.min(1, Math.max(0, score))}%`;
  return el("span", { className: "track", aria: { hidden: true } }, fill);
}

const fact = (label, value) => el("span", {}, `${label} `, el("b", {}, String(value)));

// ---- answers ----

function renderAnswers(reply, request) {
  const documents = [request.context].flat();
  const texts = el("div", { className: "texts", tabIndex: 0, role: "group", aria: { label: "Context" } });
  const found = reply.answer;
  const answers = reply.answers ?? (found ? [found] : []);
  const blocks = documents.map((text, index) => {
    const block = el("p", { dir: "auto" }, text);
    texts.append(el("div", {}, documents.length > 1 && el("h3", {}, `Document ${index + 1}`), block));
    return block;
  });

  let lost = null;
  function highlight(answer) {
    blocks.forEach((block, index) => {
      const text = documents[index];
      if (!answer || (answer.document ?? 0) !== index) return block.replaceChildren(text);
      const [start, end] = codeUnits(text, answer.start, answer.end);
      const mark = el("mark", {}, text.slice(start, end));
      block.replaceChildren(text.slice(0, start), mark, text.slice(end));
      if (mark.textContent !== answer.text) lost ??= answer;
      const top = mark.offsetTop - texts.clientHeight / 3;
      if (mark.offsetTop < texts.scrollTop || mark.offsetTop + mark.offsetHeight > texts.scrollTop + texts.clientHeight)
        texts.scrollTop = top;
    });
  }

  let pinned = found;
  const where = (answer) => {
    const range = `characters ${answer.start}–${answer.end}`;
    return documents.length > 1 ? `document ${(answer.document ?? 0) + 1}, ${range}` : range;
  };
  const buttons = answers.map((answer, index) => {
    const button = el(
      "button",
      { type: "button", className: `bar${found && index === 0 ? " best" : ""}`, aria: { pressed: found && index === 0 } },
      el("span", { className: "name", dir: "auto" }, answer.text),
      el("span", { className: "value" }, percent(answer.score)),
      track(answer.score),
      el("span", { className: "where" }, where(answer)),
    );
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => highlight(answer));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => highlight(pinned));
    button.addEventListener("click", () => {
      pinned = answer;
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      highlight(answer);
    });
    return button;
  });

  const verdict = found
    ? el("p", { className: "verdict", dir: "auto" }, found.text, el("span", {}, percent(found.score)))
    : el("p", { className: "verdict" }, documents.length > 1 ? "No answer in these texts" : "No answer in this text");
  const facts = el(
    "p",
    { className: "facts" },
    fact("No-answer score", percent(reply.no_answer_score)),
    fact("Windows", reply.windows),
    fact("Model", reply.model),
  );
  const list = answers.length > 0 && el(
    "div",
    { className: "bars answers" },
    el("h2", {}, found ? "Answers, best first" : "The best it could find all the same"),
    el("ol", {}, ...buttons.map((button) => el("li", {}, button))),
  );
  return {
    nodes: [verdict, facts, texts, list],
    // After the nodes are in the page: only then does the mark have a place to scroll to.
    shown() {
      highlight(found);
      if (lost) texts.before(el("p", { className: "notice" }, "The offsets do not hold the answer's text: please report this."));
    },
  };
}

/** A verdict over bars, best first: `scores` are [name, score, whether it won]. */
function renderScores(verdict, score, scores, reply, model, remark) {
  const limit = model?.max_length ? ` of ${model.max_length} tokens` : "";
  return {
    nodes: [
      el("p", { className: "verdict", dir: "auto" }, verdict, score !== null && el("span", {}, percent(score))),
      reply.truncated && el("p", { className: "notice" }, `The text was longer than the model's limit${limit}: its end was not read.`),
      el("ul", { className: "bars" }, ...scores.map(([name, score, best]) =>
        el("li", { className: `bar${best ? " best" : ""}` },
          el("span", { className: "name", dir: "auto" }, name),
          el("span", { className: "value" }, percent(score)),
          track(score)))),
      el("p", { className: "facts" }, fact("Model", reply.model), remark),
    ],
  };
}

function renderLabels(reply, request, model) {
  const chosen = reply.labels ?? [reply.label];
  const scores = Object.entries(reply.scores).sort((a, b) => b[1] - a[1]);
  const alone = request.multi_label === true || reply.labels !== undefined;
  const shown = scores.slice(0, 20); // a model may have thousands of labels
  const rest = shown.length < scores.length ? ` The best ${shown.length} of ${scores.length} labels are shown.` : "";
  return renderScores(
    chosen.join(", ") || "No label holds",
    chosen.length === 1 ? reply.scores[chosen[0]] : null,
    shown.map(([label, score]) => [label, score, chosen.includes(label)]),
    reply, model, (alone ? "Each label is scored on its own." : "Scores are the model's own and sum to 100 %.") + rest,
  );
}

const renderOptions = (reply, request, model) => renderScores(
  reply.answer.text, reply.answer.score,
  reply.answers.map(({ option, text, score }) => [text, score, option === reply.answer.option]),
  reply, model, "Scores are among the options and sum to 100 %.",
);

function renderProblem(problem) {
  const rows = [["Field", problem.field], ["Request", problem.request_id], ["Try again in", problem.retry_after]];
  return el(
    "div",
    { className: "problem" },
    el("h2", {}, problem.status ? `${problem.status} ${problem.title}` : problem.title),
    problem.detail && el("p", {}, problem.detail),
    el("dl", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
  );
}

// ---- the five tasks ----

const holds = (model, ...labels) => {
  const own = (model.labels ?? []).map((label) => String(label).toLowerCase());
  return model.task === "classification" && labels.every((label) => own.includes(label));
};
const isInference = (model) => holds(model, "entailment", "contradiction");

/** By tab: the route, the models that can do it, the examples (the first is filled in), form to body, reply to nodes. */
const TASKS = {
  qa: {
    route: "qa",
    suits: (model) => model.task === "span",
    render: renderAnswers,
    examples: {
      "One text": { question: "Who designed the Forth Bridge?", context: [BRIDGE] },
      "Not in the text": { question: "How many trains cross the bridge each day?", context: [BRIDGE] },
      "Two documents": {
        question: "How much does a ticket cost?",
        context: [
          "The west wing of the museum is closed for repairs until May. The café stays open.",
          "Tickets cost 12 euros at the door. Children under six enter free.",
        ],
      },
      "Emoji 🚀": {
        question: "When does the rocket leave?",
        context: ["Dear crew 👩🏽‍🚀👨‍🚀, the weather is fine 🌤️ and the rocket 🚀 leaves on Tuesday at 9:40. Bring socks 🧦."],
      },
    },
    body: ({ question, top_k, no_answer }, panel) => {
      const context = [...panel.querySelectorAll("textarea[name=context]")].map((area) => area.value);
      return {
        question: question.value,
        context: context.length === 1 ? context[0] : context,
        top_k: Number(top_k.value),
        no_answer: no_answer.checked,
      };
    },
  },
  options: {
    route: "qa",
    suits: (model) => model.task === "multiple_choice",
    render: renderOptions,
    examples: {
      Question: {
        question: "Why did painting the bridge become a byword?",
        context: BRIDGE,
        options: "It never seemed to end.\nIt was badly paid.\nIt was done by princes.\nIt was forbidden.",
      },
      "Fill the blank": {
        question: "In 1919 the longest cantilever span was that of the _ Bridge.",
        context: BRIDGE,
        options: "Forth\nQuebec\nTower\nBrooklyn",
      },
    },
    body: ({ question, context, options }) => ({
      question: question.value,
      context: context.value,
      options: options.value.split("\n").map((option) => option.trim()).filter(Boolean),
    }),
  },
  text: {
    route: "classify",
    suits: (model) => model.task === "classification" && !isInference(model),
    render: renderLabels,
    examples: {
      Warm: { text: "A quiet, generous film that earns every one of its tears." },
      Cold: { text: "Two hours long, and it feels like four." },
      Mixed: { text: "Lovely to look at, but the story never quite wakes up." },
    },
    body: ({ text }) => ({ text: text.value }),
  },
  nli: {
    route: "classify",
    suits: isInference,
    render: renderLabels,
    examples: {
      Follows: {
        premise: "A man in a red jacket is repairing a bicycle outside a café.",
        hypothesis: "Someone is fixing a bike.",
      },
      "Goes against": {
        premise: "A man in a red jacket is repairing a bicycle outside a café.",
        hypothesis: "The man is asleep in his bed.",
      },
      Neither: {
        premise: "A man in a red jacket is repairing a bicycle outside a café.",
        hypothesis: "The bicycle belongs to his daughter.",
      },
    },
    body: ({ premise, hypothesis }) => ({ premise: premise.value, hypothesis: hypothesis.value }),
  },
  "zero-shot": {
    route: "classify",
    suits: isInference,
    render: renderLabels,
    examples: {
      News: {
        text: "The central bank kept interest rates where they are, pointing to slower inflation and a weak jobs market.",
        candidate_labels: "economy, sport, cooking, travel",
        hypothesis_template: ZERO_SHOT_TEMPLATE,
      },
      Support: {
        text: "My parcel arrived broken and nobody answers the phone.",
        candidate_labels: "complaint, praise, question",
        hypothesis_template: "This message is a {}.",
      },
      "Several at once": {
        text: "The city voted to cover the roof of its new football stadium with solar panels.",
        candidate_labels: "sport, energy, politics, cooking",
        hypothesis_template: ZERO_SHOT_TEMPLATE,
        multi_label: true,
      },
    },
    body: ({ text, candidate_labels, hypothesis_template, multi_label }) => ({
      text: text.value,
      candidate_labels: candidate_labels.value.split(",").map((label) => label.trim()).filter(Boolean),
      hypothesis_template: hypothesis_template.value,
      multi_label: multi_label.checked,
    }),
  },
};

// ---- talking to the service ----

let token = ""; // in memory only

/** One exchange. Resolves to {reply, raw, response, elapsed}, or {problem, raw, response}; rejects only when aborted. */
async function exchange(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, signal };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const started = performance.now();
  let response = null;
  let raw = "";
  try {
    response = await fetch(path, options);
    raw = await response.text();
    const elapsed = performance.now() - started;
    const parsed = JSON.parse(raw);
    if (response.ok) return { reply: parsed, raw: JSON.stringify(parsed, null, 2), response, elapsed };
    const problem = { title: response.statusText || "Error", ...parsed, status: response.status };
    problem.request_id ??= response.headers.get("X-Request-Id");
    const wait = response.headers.get("Retry-After");
    if (wait) problem.retry_after = `${wait} s`;
    return { problem, raw: JSON.stringify(parsed, null, 2), response };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const problem = response
      ? { status: response.status, title: "Not an answer of this service", detail: "The body is not JSON. Is there a proxy between?" }
      : { title: "The service cannot be reached", detail: "Is it running? The browser's console says more." };
    return { problem, raw, response };
  }
}

// ---- panels ----

const panels = new Map(); // by tab name, in the tabs' order
let models = [];
let waiting = null; // the panel whose run wants the key first

class Panel {
  constructor(name) {
    this.name = name;
    this.task = TASKS[name];
    this.tab = $(`#tab-${name}`);
    this.root = $(`#panel-${name}`);
    this.form = $("form", this.root);
    this.form.append($("#actions").content.cloneNode(true));
    $(".lead", this.form).after($("#examples").content.cloneNode(true));
    this.root.append($("#output").content.cloneNode(true));
    this.result = $(".result", this.root);
    this.running = null;

    $("kbd", this.root).textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ⏎" : "Ctrl ⏎";
    for (const [label, fields] of Object.entries(this.task.examples)) {
      const chip = el("button", { type: "button" }, label);
      chip.addEventListener("click", () => {
        this.fill(fields);
        this.run();
      });
      $(".examples", this.root).append(chip);
    }
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    this.form.addEventListener("input", (event) => {
      event.target.removeAttribute("aria-invalid");
      this.changed();
    });
    $(".copy", this.root).addEventListener("click", () => this.copy());
    $(".add", this.root)?.addEventListener("click", () => this.addDocument("").focus());
    this.fill(Object.values(this.task.examples)[0]);
  }

  fill(fields) {
    for (const input of this.form.elements) {
      if (input.type === "checkbox") input.checked = fields[input.name] ?? input.defaultChecked;
      else if (typeof fields[input.name] === "string") input.value = fields[input.name];
      input.removeAttribute("aria-invalid");
    }
    if (Array.isArray(fields.context)) {
      $(".documents", this.root).replaceChildren();
      fields.context.forEach((text) => this.addDocument(text));
    }
    this.changed();
  }

  addDocument(text) {
    const list = $(".documents", this.root);
    const area = el("textarea", { name: "context", rows: 4, dir: "auto", value: text });
    const remove = el("button", { type: "button", className: "remove" }, "Remove");
    const field = el("div", { className: "field" }, el("div", { className: "head" }, el("label"), remove), area);
    remove.addEventListener("click", () => {
      const next = field.nextElementSibling ?? field.previousElementSibling;
      field.remove();
      this.number();
      $("textarea", next).focus();
    });
    list.append(field);
    this.number();
    return area;
  }

  /** Numbers the documents anew: labels, ids, and no way to remove the last one. */
  number() {
    const fields = [...$(".documents", this.root).children];
    fields.forEach((field, index) => {
      const label = $("label", field);
      label.textContent = fields.length > 1 ? `Document ${index + 1}` : "Context";
      label.htmlFor = $("textarea", field).id = `qa-context-${index}`;
      $(".remove", field).hidden = fields.length === 1;
      $(".remove", field).setAttribute("aria-label", `Remove document ${index + 1}`);
    });
    this.changed();
  }

  body() {
    const body = this.task.body(this.form.elements, this.root);
    const model = this.form.elements.model.value;
    return model ? { ...body, model } : body;
  }

  /** Keeps what is drawn from the form in step with it. */
  changed() {
    const slider = $("input[type=range]", this.form);
    if (slider) $("output", this.form).textContent = slider.value;
    const url = new URL(this.task.route, document.baseURI).href;
    const lines = [`curl ${shellQuote(url)}`, `-H 'Content-Type: application/json'`];
    if (token) lines.push(`-H "Authorization: Bearer $BERTIE_KEY"`); // the key itself stays out of the clipboard
    lines.push(`-d ${shellQuote(JSON.stringify(this.body()))}`);
    $(".curl pre", this.root).textContent = lines.join(" \\\n  ");
  }

  async copy() {
    const [code, button] = [$(".curl pre", this.root), $(".copy", this.root)];
    let done = true;
    try {
      await navigator.clipboard.writeText(code.textContent); // absent where the page is neither https nor localhost
    } catch {
      getSelection().selectAllChildren(code);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 1600);
  }

  async run() {
    this.running?.abort();
    const running = (this.running = new AbortController());
    const request = this.body();
    this.busy(true);
    try {
      const outcome = await exchange(this.task.route, request, running.signal);
      this.show(outcome, request);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      if (this.running === running) this.busy(false);
    }
  }

  busy(on) {
    this.result.setAttribute("aria-busy", on);
    $(".run span", this.root).textContent = on ? "Running…" : "Run";
  }

  show({ reply, problem, raw, response, elapsed }, request) {
    for (const input of this.form.elements) input.removeAttribute("aria-invalid");
    if (problem) {
      this.result.replaceChildren(renderProblem(problem));
      this.blame(problem.field);
      if (problem.status === 401) askForKey(this);
    } else {
      const { nodes, shown } = this.task.render(reply, request, models.find((model) => model.name === reply.model));
      this.result.replaceChildren(...nodes.filter(Boolean));
      shown?.();
    }
    // Read out the verdict alone, not the whole context; on a narrow screen, bring it into view.
    const verdict = $(".verdict, .problem", this.result);
    $("[role=status]", this.root).textContent = verdict.innerText;
    if (this.result.getBoundingClientRect().top > innerHeight - 120) this.result.scrollIntoView();
    $(".raw", this.root).hidden = !raw;
    $(".raw pre", this.root).textContent = raw;
    this.timing(response, elapsed, problem?.request_id);
  }

  /** Marks the control that a problem's field (`context.1`, `candidate_labels.0`) names. */
  blame(field) {
    const path = String(field ?? "").split(".");
    for (const [index, part] of path.entries()) {
      const inputs = this.root.querySelectorAll(`[name="${CSS.escape(part)}"]`);
      const input = inputs[inputs.length > 1 ? Number(path[index + 1]) || 0 : 0];
      if (input) return input.setAttribute("aria-invalid", "true");
    }
  }

  /** Draws where the time went, and the request's id unless a problem has already named it. */
  timing(response, elapsed, named) {
    const box = $(".timing", this.root);
    const durations = serverTiming(response?.headers.get("Server-Timing"));
    const phases = PHASES.filter((phase) => durations.has(phase));
    const id = named ? null : response?.headers.get("X-Request-Id");
    box.hidden = !phases.length && !id;
    const bar = el("div", { className: "phases", aria: { hidden: true } });
    for (const phase of phases) {
      const part = el("i", { className: phase, title: `${phase} ${milliseconds(durations.get(phase))}` });
      part.style.flexGrow = durations.get(phase);
      bar.append(part);
    }
    box.replaceChildren(
      ...(phases.length ? [bar] : []),
      el("ul", {},
        ...phases.map((phase) => el("li", {}, el("i", { className: phase }), `${phase} ${milliseconds(durations.get(phase))}`)),
        ...(phases.length && elapsed ? [el("li", {}, `round trip ${milliseconds(elapsed)}`)] : [])),
      ...(id ? [el("p", {}, "Request ", el("span", { className: "id" }, id))] : []),
    );
  }

  offer(list) {
    const suited = list.filter(this.task.suits);
    this.tab.hidden = suited.length === 0;
    const select = this.form.elements.model;
    select.replaceChildren(select.options[0], ...suited.map(({ name }) => el("option", { value: name }, name)));
    select.closest("label").hidden = suited.length < 2;
    this.changed();
  }
}

// ---- tabs, models, key ----

const visible = () => [...panels.values()].filter((panel) => !panel.tab.hidden);
let current = null;

function select(panel, focus = false) {
  current = panel;
  for (const other of panels.values()) {
    const chosen = other === panel;
    other.tab.setAttribute("aria-selected", chosen);
    other.tab.tabIndex = chosen ? 0 : -1;
    other.root.hidden = !chosen;
  }
  if (!panel) return;
  if (focus) {
    panel.tab.focus();
    history.replaceState(null, "", `#${panel.name}`);
  }
}

async function loadModels() {
  const strip = $("#models");
  const { reply, problem } = await exchange("models");
  if (problem) {
    if (problem.status === 401) askForKey();
    const again = el("button", { type: "button", className: "add" }, "Ask again");
    again.addEventListener("click", loadModels);
    strip.replaceChildren(el("span", { className: "quiet" }, `No list of models: ${problem.title}.`), again);
    return;
  }
  models = Array.isArray(reply) ? reply : reply.models ?? [];
  strip.replaceChildren(...models.map((model) => {
    const provider = String(model.provider ?? "").replace("ExecutionProvider", "");
    const details = [model.task, model.precision, provider].filter(Boolean).join(" · ");
    const href = `models/${encodeURIComponent(model.name)}`;
    return el("a", { href }, el("b", {}, model.name), el("span", { className: "quiet" }, details));
  }));
  if (!models.length) strip.append(el("span", { className: "quiet" }, "No model is loaded."));
  for (const panel of panels.values()) panel.offer(models);
  const offered = visible();
  $("#tabs").hidden = offered.length === 0;
  $("#nothing").hidden = offered.length > 0;
  if (!offered.includes(current)) select(offered[0] ?? null);
}

function askForKey(panel = null) {
  waiting = panel ?? waiting;
  $("#token-help").textContent = token
    ? "That key was refused. Check it and try once more."
    : "Sent as a bearer token. Kept in this page's memory only: a reload forgets it.";
  $("#key").hidden = false;
  $("#token").focus();
}

function useKey(event) {
  event.preventDefault();
  const value = $("#token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(value)) {
    $("#token-help").textContent = "A key is one word of plain ASCII characters.";
    return;
  }
  token = value;
  $("#token").value = "";
  $("#key").hidden = true;
  for (const panel of panels.values()) panel.changed();
  loadModels();
  waiting?.run();
  waiting = null;
}

function start() {
  for (const name of Object.keys(TASKS)) panels.set(name, new Panel(name));
  for (const panel of panels.values()) panel.tab.addEventListener("click", () => select(panel, true));
  $("#tabs").addEventListener("keydown", (event) => {
    const offered = visible();
    const at = offered.indexOf(current);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(offered.at(to % offered.length), true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.target.closest?.("#key")) return;
    event.preventDefault();
    current?.run();
  });
  addEventListener("hashchange", () => {
    const panel = panels.get(location.hash.slice(1));
    if (panel && !panel.tab.hidden) select(panel);
  });
  $("#key").addEventListener("submit", useKey);
  select(panels.get(location.hash.slice(1)) ?? panels.get("qa"));
  loadModels();
}

if (globalThis.document) start(); // a test imports the text functions alone
