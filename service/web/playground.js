// The playground: tabs over the service's HTTP contract, one a task and one for files. No framework, no build, nothing
// from elsewhere.

import { $, el, markTab, tabKeys } from "./dom.js";
import { FilePanel } from "./file.js";
import { FormPanel } from "./form.js";
import { watch } from "./live.js";
import { askModels, hasToken, loaded, useToken } from "./service.js";
import { TASKS } from "./tasks.js";

const panels = new Map(); // by tab name, in the tabs' order
let current = null;
let waiting = null; // the panel whose run wants the key first

const offered = () => [...panels.values()].filter((panel) => !panel.tab.hidden);

function select(panel, asked = false) {
  current = panel;
  markTab([...panels.values()].map(({ tab }) => tab), panel?.tab);
  for (const other of panels.values()) other.root.hidden = other !== panel;
  if (panel && asked) history.replaceState(null, "", `#${panel.name}`);
}

async function showModels() {
  const strip = $("#models");
  const { problem } = await askModels();
  if (problem) {
    if (problem.status === 401) askForKey();
    const again = el("button", { type: "button", className: "add" }, "Ask again");
    again.addEventListener("click", showModels);
    strip.replaceChildren(el("span", { className: "quiet" }, `No list of models: ${problem.title}.`), again);
    return;
  }
  strip.replaceChildren(...loaded().map((model) => {
    const details = [model.task.replaceAll("_", " "), model.precision, model.provider].filter(Boolean).join(" · ");
    return el("a", { href: `models/${encodeURIComponent(model.name)}` },
      el("b", {}, model.name), el("span", { className: "quiet" }, details));
  }));
  if (!loaded().length) strip.append(el("span", { className: "quiet" }, "No model is loaded."));
  for (const panel of panels.values()) panel.offer();
  const shown = offered();
  $("#tabs").hidden = shown.length === 0;
  $("#nothing").hidden = shown.length > 0;
  if (!shown.includes(current)) select(shown[0] ?? null);
}

function askForKey(panel = null) {
  waiting = panel ?? waiting;
  $("#token-help").textContent = hasToken()
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
  useToken(value);
  $("#token").value = "";
  $("#key").hidden = true;
  for (const panel of panels.values()) panel.changed();
  showModels();
  waiting?.run();
  waiting = null;
}

function start() {
  for (const name of Object.keys(TASKS)) panels.set(name, new FormPanel(name, askForKey));
  const files = new FilePanel(askForKey);
  panels.set(files.name, files);
  const panelOf = (tab) => [...panels.values()].find((panel) => panel.tab === tab);
  for (const panel of panels.values()) panel.tab.addEventListener("click", () => select(panel, true));
  tabKeys($("#tabs"), (tab) => select(panelOf(tab), true));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.target.closest?.("#key")) return;
    event.preventDefault();
    current?.run();
  });
  // A file may be dropped anywhere: else the browser would leave the page for it.
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (name === "drop" || event.relatedTarget === null) document.body.classList.remove("dropping");
    });
  }
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    if (files.tab.hidden) return;
    select(files, true);
    files.open(event.dataTransfer.files[0]);
  });
  addEventListener("hashchange", () => {
    const panel = panels.get(location.hash.slice(1));
    if (panel && !panel.tab.hidden) select(panel);
  });
  $("#key").addEventListener("submit", useKey);
  select(panels.get(location.hash.slice(1)) ?? panels.get("qa"));
  showModels();
  watch();
}

start();
