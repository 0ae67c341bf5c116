// Predictions as elements: each gets the reply, the request that it answers and what is known of the model, so that
// editing the form never moves a highlight. What is returned is shown in order; `shown` runs once it is in the page.

import { barParts, bars, track } from "./charts.js";
import { el } from "./dom.js";
import { codeUnits, duration, many, percent } from "./text.js";

const slice = (text, { start, end }) => text.slice(...codeUnits(text, start, end));

const fact = (label, value) => el("span", {}, `${label} `, el("b", {}, String(value)));
const verdict = (text, score) =>
  el("p", { className: "verdict", dir: "auto" }, text, score !== null && el("span", {}, percent(score)));
const cut = (reply, model) => reply.truncated && el("p", { className: "notice" },
  `The text was longer than the model's limit${model ? ` of ${model.max_length} tokens` : ""}: its end was not read.`);

/** How the documents were read: the answer tells how many windows, the model how long they are. */
function reading(reply, documents, model) {
  if (!model || reply.windows === 1) return many(reply.windows, "window");
  const shared = documents.length === 1 ? `, neighbours sharing ${model.doc_stride} or more` : "";
  return `${many(reply.windows, "window")} of up to ${model.max_length} tokens${shared}`;
}

/**
 * The documents, with the places of all answers marked, what the marks mean, and a function that lights up one answer and
 * the window that it was read in, where that is not the whole document.
 */
function markedDocuments(documents, answers, best, pin) {
  const texts = el("div", { className: "texts", tabIndex: 0, role: "group", aria: { label: "Context" } });
  const legend = el("p", { className: "legend" });
  const pieces = []; // {element, the answers that it is part of, those whose windows hold it}
  documents.forEach((text, index) => {
    const places = answers.filter(({ document }) => document === index).map((answer) => {
      const { start, end, window } = answer;
      return { answer, range: codeUnits(text, start, end), read: codeUnits(text, window.start, window.end) };
    });
    const borders = [...new Set([0, ...places.flatMap(({ range, read }) => [...range, ...read]), text.length])].sort((a, b) => a - b);
    const block = el("p", { dir: "auto" });
    borders.slice(1).forEach((end, i) => {
      const within = (name) => places.filter((place) => place[name][0] <= borders[i] && end <= place[name][1]).map(({ answer }) => answer);
      const [holding, shown] = [within("range"), within("read")];
      const element = el(holding.length ? "mark" : "span", { className: best && holding.includes(best) ? "best" : "" }, text.slice(borders[i], end));
      if (holding.length) element.addEventListener("click", () => pin(holding[0]));
      pieces.push({ element, holding, shown });
      block.append(element);
    });
    texts.append(el("div", {}, documents.length > 1 && el("h3", {}, `Document ${index + 1}`), block));
  });
  function light(answer) {
    const cut = answer && documents[answer.document].trim() !== slice(documents[answer.document], answer.window);
    const read = pieces.filter(({ shown }) => cut && shown.includes(answer));
    for (const piece of pieces) {
      const { classList } = piece.element;
      classList.toggle("on", piece.holding.includes(answer));
      classList.toggle("read", read.includes(piece));
      classList.toggle("from", piece === read[0]);
      classList.toggle("to", piece === read.at(-1));
    }
    const key = (className, words) => el("span", {}, el("i", { className, aria: { hidden: true } }), words);
    legend.replaceChildren(
      ...(answer ? [key("on", "this answer")] : []),
      ...(answers.length > (answer ? 1 : 0) ? [key("", answer ? "another" : "the best it could find all the same")] : []),
      ...(cut ? [key("read", `the window that the answer was read in: characters ${answer.window.start}–${answer.window.end} of ${[...documents[answer.document]].length}`)] : []));
    const first = pieces.find(({ element }) => element.classList.contains("on"))?.element;
    if (!first) return;
    const [top, bottom] = [first.offsetTop, first.offsetTop + first.offsetHeight];
    if (top < texts.scrollTop || bottom > texts.scrollTop + texts.clientHeight) texts.scrollTop = top - texts.clientHeight / 3;
  }
  return { texts, legend, light };
}

/** An extractive answer in its documents, and the runners-up. */
export function renderAnswers(reply, request, model) {
  const documents = [request.context].flat();
  const { answers } = reply;
  const found = reply.answer ? answers[0] : null; // the same, and one object: it is told from the others by identity
  let pinned = found;
  const { texts, legend, light } = markedDocuments(documents, answers, found, (answer) => pin(answer));

  const where = ({ document, start, end }) =>
    `${documents.length > 1 ? `document ${document + 1}, ` : ""}characters ${start}–${end}`;
  const buttons = answers.map((answer, index) => {
    const won = found !== null && index === 0;
    const button = el("button", { type: "button", className: `bar${won ? " best" : ""}`, aria: { pressed: won } },
      ...barParts(answer.text, percent(answer.score), answer.score),
      el("span", { className: "where" }, where(answer)));
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => light(answer));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => light(pinned));
    button.addEventListener("click", () => pin(answer));
    return button;
  });
  function pin(answer) {
    pinned = answer;
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", answers[index] === answer));
    light(answer);
  }
  const none = request.no_answer && el("li", { className: `bar none${found ? "" : " best"}` },
    ...barParts("no answer", percent(reply.no_answer_score), reply.no_answer_score));
  const lost = answers.some((answer) => slice(documents[answer.document], answer) !== answer.text);
  return {
    nodes: [
      found ? verdict(found.text, found.score) : verdict(documents.length > 1 ? "No answer in these texts" : "No answer in this text", null),
      lost && el("p", { className: "notice" }, "The offsets do not hold the answer's text: please report this."),
      texts,
      legend,
      el("div", { className: "bars answers" },
        el("h2", {}, found ? "Answers, best first" : "The best it could find all the same"),
        el("ol", {}, ...buttons.map((button) => el("li", {}, button)), none)),
      el("p", { className: "facts" },
        !request.no_answer && fact("No-answer score", percent(reply.no_answer_score)),
        fact("Read in", reading(reply, documents, model)),
        fact("Model", reply.model)),
    ],
    shown: () => light(found), // only in the page does a mark have a place to scroll to
  };
}

const MOST_BARS = 20;

/** Labels as bars. */
export function renderLabels(reply, request, model) {
  const chosen = reply.labels ?? [reply.label];
  const scores = Object.entries(reply.scores).sort((a, b) => b[1] - a[1]);
  const alone = request.multi_label === true || scores.length === 1 || reply.labels !== undefined;
  return { nodes: [
    verdict(chosen.join(", ") || "No label holds", chosen.length === 1 ? reply.scores[chosen[0]] : null),
    cut(reply, model),
    bars(scores.slice(0, MOST_BARS).map(([label, score]) => [label, score, chosen.includes(label)]), reply.labels && model?.label_threshold),
    el("p", { className: "facts" }, fact("Model", reply.model),
      alone ? "Each label is scored on its own." : "Scores sum to 100 %.",
      scores.length > MOST_BARS && many(scores.length - MOST_BARS, "more label")),
  ] };
}

/** A model's one number: as a share of a bar where it went through a sigmoid. */
export function renderScore(reply, request, model) {
  const share = model?.activation === "sigmoid" ? reply.score : null;
  return { nodes: [
    el("p", { className: "verdict" }, share === null ? reply.score.toFixed(4) : percent(share)),
    cut(reply, model),
    share !== null && el("div", { className: "bar best" }, track(share)),
    el("p", { className: "facts" }, fact("Model", reply.model), "One number, not a choice among labels."),
  ] };
}

/** Texts in the order of their scores: as bars where those went through a sigmoid, else between the best and the worst. */
export function renderRanking(reply, request, model) {
  const { ranking } = reply;
  const [most, least] = [ranking[0].score, ranking.at(-1).score];
  const bounded = model?.activation === "sigmoid";
  const share = (score) => (bounded ? score : most > least ? (score - least) / (most - least) : 1);
  return { nodes: [
    verdict(request.texts[ranking[0].index], bounded ? most : null),
    cut(reply, model),
    el("ol", { className: "bars" }, ...ranking.map(({ index, score }, place) =>
      el("li", { className: `bar${place ? "" : " best"}` },
        ...barParts(request.texts[index], bounded ? percent(score) : score.toFixed(3), share(score))))),
    el("p", { className: "facts" }, fact("Model", reply.model), "Each text is scored on its own."),
  ] };
}

/** The options of a question as bars. */
export function renderOptions(reply, request, model) {
  return { nodes: [
    verdict(reply.answer.text, reply.answer.score),
    cut(reply, model),
    bars(reply.answers.map(({ option, text, score }) => [text, score, option === reply.answer.option])),
    el("p", { className: "facts" }, fact("Model", reply.model), "Scores are among the options and sum to 100 %."),
  ] };
}

/** What went wrong, in words. */
export function renderProblem({ status, title, detail, field, request_id, retry_after }) {
  const rows = [["Field", field], ["Request", request_id], ["Try again in", retry_after && duration(retry_after)]];
  return el("div", { className: "problem" },
    el("h2", {}, status ? `${status} ${title}` : title),
    detail && el("p", {}, detail),
    el("dl", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])));
}
