// What the service does now: queue and batches, from its own metrics. Where it does not show them here, nothing is shown.

import { $, el } from "./dom.js";
import { curve } from "./charts.js";
import { metrics } from "./service.js";
import { count, figure, milliseconds, percent } from "./text.js";

const EVERY = 2000; // ms
const KEPT = 60; // values of a curve

/** The sum over all labels of each metric of Prometheus' text, by name; buckets are left out. */
export function sums(text) {
  const found = new Map();
  for (const [, name, value] of text.matchAll(/^(\w+?)(?:\{[^\n]*\})? ([^\s]+)/gm))
    if (!name.endsWith("_bucket")) found.set(name, (found.get(name) ?? 0) + Number(value));
  return found;
}

/** The figures of two readings, `seconds` apart: [name, value in words, number for the curve]. */
export function figures(before, now, seconds) {
  const grown = (name) => (now.get(name) ?? 0) - (before.get(name) ?? 0);
  const batches = grown("bertie_batch_rows_count");
  const mean = (name) => grown(`${name}_sum`) / batches;
  const ran = grown("bertie_batch_rows_sum") / seconds;
  const waiting = now.get("bertie_queue_rows") ?? 0;
  return [
    ["Rows waiting", count(waiting), waiting],
    ["Tokens waiting", count(now.get("bertie_queue_tokens") ?? 0), null],
    ["Rows/s", ran ? figure(ran) : "0", ran],
    ["Batches/s", batches ? figure(batches / seconds) : "0", null],
    ["Rows/batch", batches ? figure(mean("bertie_batch_rows")) : "–", null],
    ["Padding", batches ? percent(mean("bertie_padding_ratio")) : "–", null],
    ...(now.has("bertie_queue_wait_seconds") ? [["Estimated wait", milliseconds(1000 * now.get("bertie_queue_wait_seconds")), null]] : []),
  ];
}

/** Keeps the strip of figures in step with the service while somebody looks at the page, for as long as it shows them. */
export async function watch(strip = $("#live")) {
  const history = new Map();
  let before = null;
  let at = 0;
  for (;;) {
    if (document.visibilityState === "hidden") {
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      before = null;
      continue;
    }
    const text = await metrics().catch(() => "");
    const time = performance.now();
    const now = sums(text ?? "");
    const shown = now.has("bertie_queue_rows");
    if (!shown) strip.hidden = true;
    if (text === null) $("nav [href=metrics]").hidden = true;
    if (text !== "" && !shown) return; // not ours to show; a service that is gone comes back
    // At once, if with nothing yet to compare: later it would push away what is being clicked.
    if (shown) draw(strip, figures(before ?? now, now, (time - at) / 1000), history);
    [before, at] = [shown ? now : null, time];
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

function draw(strip, list, history) {
  strip.hidden = false;
  $("dl", strip).replaceChildren(...list.map(([name, words, value]) => {
    if (value !== null) history.set(name, [...(history.get(name) ?? []), value].slice(-KEPT));
    const line = value !== null && curve(history.get(name), KEPT);
    return el("div", {}, el("dt", {}, name), el("dd", {}, words), line);
  }));
}
