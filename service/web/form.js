// A tab that asks one thing: a form, its answer, the time that it took, and how to call it.

import { renderProblem } from "./answers.js";
import { CodeBox } from "./code.js";
import { $, el, template } from "./dom.js";
import { exchange, loaded, modelNamed } from "./service.js";
import { TASKS } from "./tasks.js";
import { milliseconds, serverTiming } from "./text.js";

const PHASES = ["tokenize", "queue", "inference", "decode"];

/** Lets a form choose among the models that suit its task; hidden where there is no choice. */
export function offerModels(select, { suits, named }) {
  const before = select.value;
  const suited = loaded().filter(suits);
  select.replaceChildren(
    ...(named ? [] : [el("option", { value: "" }, "the service's choice")]),
    ...suited.map(({ name }) => el("option", { value: name }, name)));
  if (suited.some(({ name }) => name === before)) select.value = before;
  select.closest("label").hidden = suited.length < 2;
}

export class FormPanel {
  /** @param needsKey called with the panel when the service wants a key */
  constructor(name, needsKey) {
    this.name = name;
    this.task = TASKS[name];
    this.needsKey = needsKey;
    this.tab = $(`#tab-${name}`);
    this.root = $(`#panel-${name}`);
    this.form = $("form", this.root);
    this.form.append(template("actions"));
    $(".lead", this.form).after(template("examples"));
    this.root.append(template("output"));
    this.result = $(".result", this.root);
    this.running = null;
    this.code = new CodeBox(this.root, name, () => ({ route: this.task.route, body: this.body(), task: this.task }));

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
    this.code.draw();
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
      if (problem.status === 401) this.needsKey(this);
    } else {
      const { nodes, shown } = this.task.render(reply, request, modelNamed(reply.model));
      this.result.replaceChildren(...nodes.filter(Boolean));
      shown?.();
    }
    // Read out the verdict alone, not the whole context; on a narrow screen, bring it into view.
    const verdict = $(".verdict, .problem", this.result);
    $("[role=status]", this.root).textContent = verdict.innerText;
    if (this.result.getBoundingClientRect().top > innerHeight - 120) this.result.scrollIntoView();
    $(".raw", this.root).hidden = !raw;
    $(".raw pre", this.root).textContent = reply ? JSON.stringify(reply, null, 2) : raw;
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

  /** Offers what the loaded models can do: nothing, where none suits. */
  offer() {
    this.tab.hidden = !loaded().some(this.task.suits);
    offerModels(this.form.elements.model, this.task);
    this.changed();
  }
}
