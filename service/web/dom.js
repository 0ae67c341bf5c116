// Elements, and the two habits that every part of the page shares: tabs and copying.
//
// A user's text reaches the page through text nodes alone.

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element; strings among `children` become text nodes, null and false are left out. */
export function el(tag, properties, ...children) {
  const { role, aria = {}, ...rest } = properties ?? {};
  const element = Object.assign(document.createElement(tag), rest);
  if (role) element.setAttribute("role", role);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A copy of a template of the page. */
export const template = (id) => $(`#${id}`).content.cloneNode(true);

/** Lets the arrow keys, Home and End choose among the tabs that are shown (WAI-ARIA's pattern for tabs). */
export function tabKeys(list, choose) {
  list.addEventListener("keydown", (event) => {
    const tabs = [...list.querySelectorAll("[role=tab]:not([hidden])")];
    const at = tabs.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const tab = tabs.at(to % tabs.length);
    choose(tab);
    tab.focus();
  });
}

/** Marks one tab of a list as the chosen one, which alone is in the page's tab order. */
export function markTab(tabs, chosen) {
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1;
  }
}

/** Copies an element's text. Where the browser does not let us, it is selected: then Ctrl+C does. */
export async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent); // absent where the page is neither https nor localhost
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

/** Saves a text, given as parts, as a file of the reader's. */
export function save(name, type, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Lets the page breathe: drawing and input come before what follows. */
export const breathe = () => new Promise((resolve) => setTimeout(resolve));

/** Collects what an iterator gives without freezing the page; `said` is told how many there are whenever it breathes. */
export async function collect(iterator, said = () => {}) {
  const items = [];
  let since = performance.now();
  for (const item of iterator) {
    items.push(item);
    if (performance.now() - since > 12) {
      said(items.length);
      await breathe();
      since = performance.now();
    }
  }
  return items;
}
