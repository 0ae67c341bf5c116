// Bars, histograms and curves, drawn with elements. Every chart says in words what it shows.

import { el } from "./dom.js";
import { count, percent } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** A track filled to `share` of its length, with a tick at `threshold` where there is one. */
export function track(share, threshold) {
  const fill = el("span", { className: "fill" });
  fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  const tick = threshold !== undefined && el("span", { className: "tick", title: `Holds over ${percent(threshold)}` });
  if (tick) tick.style.left = `${100 * threshold}%`;
  return el("span", { className: "track", aria: { hidden: true } }, fill, tick);
}

/** One line of bars: its name, its value in words and its track. */
export const barParts = (name, value, share, threshold) => [
  el("span", { className: "name", dir: "auto" }, name),
  el("span", { className: "value" }, value),
  track(share, threshold),
];

/**
 * Scores as bars.
 * @param scores [name, score, whether it won], in the order to be shown
 * @param threshold score over which a label holds, if that is how they are chosen
 */
export const bars = (scores, threshold) =>
  el("ul", { className: "bars" }, ...scores.map(([name, score, best]) =>
    el("li", { className: `bar${best ? " best" : ""}` }, ...barParts(name, percent(score), score, threshold))));

/**
 * How many of `values` fall into each of `bins` equal parts of their range: [0, 1], or wider where a value lies outside.
 * @returns {{low: number, high: number, counts: number[]}}
 */
export function spread(values, bins = 20) {
  let [low, high] = [0, 1];
  for (const value of values) {
    if (value < low) low = Math.floor(value);
    if (value > high) high = Math.ceil(value);
  }
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins))] += 1;
  return { low, high, counts };
}

/** A histogram of scores. */
export function histogram(values) {
  const { low, high, counts } = spread(values);
  const most = Math.max(1, ...counts);
  const name = (value) => (low === 0 && high === 1 ? `${Math.round(100 * value)} %` : value.toFixed(1));
  const edge = (index) => name(low + ((high - low) * index) / counts.length);
  const columns = counts.map((height, index) => {
    const column = el("i", { title: `${edge(index)} to ${edge(index + 1)}: ${count(height)}` });
    column.style.height = height ? `max(2px, ${(100 * height) / most}%)` : "0";
    return column;
  });
  const fullest = counts.indexOf(most);
  const words = `${count(values.length)} scores; most, ${count(most)}, from ${edge(fullest)} to ${edge(fullest + 1)}`;
  return el("div", { className: "histogram" },
    el("div", { className: "columns", role: "img", aria: { label: words } }, ...columns),
    el("div", { className: "axis", aria: { hidden: true } }, ...[low, (low + high) / 2, high].map((value) => el("span", {}, name(value)))));
}

/** A curve of the last values, without axes: `most` is the height of the highest. */
export function curve(values, length) {
  const most = Math.max(1e-9, ...values);
  const points = values.map((value, index) => `${length - values.length + index},${(20 - (19 * value) / most).toFixed(1)}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${length - 1} 21`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  picture.append(line);
  return picture;
}
