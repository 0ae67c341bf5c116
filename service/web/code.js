// The box under every panel that shows how to call the service for what the panel shows.

import { $, copy, markTab, tabKeys, template } from "./dom.js";
import { address, hasToken } from "./service.js";
import { WAYS } from "./snippets.js";

let chosen = "curl"; // in all panels alike
const boxes = [];

export class CodeBox {
  /**
   * @param root the panel
   * @param name the panel's name, for ids
   * @param call gives {route, body, task, and `about` what of the screen it is}, or null while there is nothing to call
   */
  constructor(root, name, call) {
    root.append(template("code"));
    this.root = root.lastElementChild;
    this.call = call;
    this.pre = $("pre", this.root);
    this.tabs = [...this.root.querySelectorAll("[role=tab]")];
    this.pre.id = `code-${name}`;
    for (const tab of this.tabs) {
      tab.setAttribute("aria-controls", this.pre.id);
      tab.addEventListener("click", () => this.choose(tab));
    }
    tabKeys($("[role=tablist]", this.root), (tab) => this.choose(tab));
    const button = $(".copy", this.root);
    let timer = 0;
    button.addEventListener("click", async () => {
      clearTimeout(timer);
      button.textContent = (await copy(this.pre)) ? "Copied" : "Selected: press Ctrl+C";
      timer = setTimeout(() => (button.textContent = "Copy"), 1600);
    });
    boxes.push(this);
  }

  choose(tab) {
    chosen = tab.dataset.way;
    for (const box of boxes) box.draw();
  }

  draw() {
    const call = this.call();
    this.root.hidden = call === null;
    if (call === null) return;
    markTab(this.tabs, this.tabs.find((tab) => tab.dataset.way === chosen));
    this.pre.setAttribute("aria-label", `Call with ${chosen}`);
    const { route, body, task, about } = call;
    $("h2 span", this.root).textContent = about ? `for ${about}` : "";
    const { model, inputs, ...shared } = body;
    const calls = (inputs ?? [{}]).map((input) => task.client({ ...shared, ...input }));
    this.pre.textContent = WAYS[chosen]({ url: address(route), root: address("."), body, model, calls, keyed: hasToken() });
  }
}
