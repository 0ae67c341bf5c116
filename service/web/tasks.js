// What the page knows of each task, one entry a tab: the route, which models do it, examples, how a form is a body, how a
// body is a call of huggingface_hub's InferenceClient, how a reply is shown, and how rows of a file are asked and told.

import { renderAnswers, renderLabels, renderOptions, renderRanking, renderScore } from "./answers.js";

const ZERO_SHOT_TEMPLATE = "This example is about {}.";
const BRIDGE =
  "The Forth Bridge, a railway bridge across the Firth of Forth in Scotland, was opened on 4 March 1890 by the " +
  "Prince of Wales. Designed by John Fowler and Benjamin Baker, it had the longest cantilever span in the world " +
  "until 1919, when the Quebec Bridge was finished. Painting it was long a byword for a job that never ends.";

const holds = (model, ...labels) => {
  const own = model.labels.map((label) => label.toLowerCase());
  return model.task === "classification" && labels.every((label) => own.includes(label));
};
const isInference = (model) => holds(model, "entailment", "contradiction");
const separated = (text, separator) => text.split(separator).map((part) => part.trim()).filter(Boolean);

const MOST_COLUMNS = 50; // of a table: a model with more labels adds the best one's score alone

/** What a classified row adds to the table: columns by name, and what is counted and drawn of it. */
const labelled = {
  columns({ label, labels, score, scores }) {
    const each = Object.entries(scores).map(([name, value]) => [`score: ${name}`, value]);
    return { predicted: labels ? labels.join("; ") : label, score, ...(each.length <= MOST_COLUMNS && Object.fromEntries(each)) };
  },
  counted: ({ label, labels }) => (!labels ? [label] : labels.length ? labels : ["no label holds"]),
  scored: ({ score }) => score,
};

/** What a scored row adds. */
const numbered = { columns: ({ score }) => ({ score }), counted: () => [], scored: ({ score }) => score };

/** What an answered row adds. */
const answered = {
  columns: ({ answer, no_answer_score }) => ({
    answer: answer?.text ?? "", score: answer?.score ?? "", start: answer?.start ?? "", end: answer?.end ?? "", no_answer_score,
  }),
  counted: ({ answer }) => [answer ? "answer" : "no answer"],
  scored: ({ answer, answers, no_answer_score }) => answer?.score ?? answers[0]?.score ?? 1 - no_answer_score,
};

/** What makes the client's answers those of /qa: its defaults are transformers' own. */
const OWN_ANSWERS = { max_answer_len: 30, align_to_words: false };

const classified = (text) => ({ method: "text_classification", arguments: { text } });

/**
 * By tab. With `named` a model is always named: the service would choose another for such a body. `rows` is of tasks that
 * a file can be asked of: `fields` are filled from its columns, with the names that such columns often have, and may be
 * left out where they are `optional`; `shared` is a form's part that holds for all rows, `each` one that goes with each.
 */
export const TASKS = {
  qa: {
    title: "Question answering",
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
    client: ({ question, context, top_k, no_answer }) => typeof context === "string"
      ? { method: "question_answering", arguments: { question, context, top_k, handle_impossible_answer: no_answer, ...OWN_ANSWERS } }
      : "InferenceClient asks one context at a time; this request has several documents.",
    rows: {
      fields: { question: ["question", "query"], context: ["context", "passage", "document", "article", "paragraph", "text"] },
      shared: ({ no_answer }) => ({ no_answer: no_answer.checked }),
      ...answered,
    },
  },
  options: {
    title: "Multiple choice",
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
      options: separated(options.value, "\n"),
    }),
    client: () => "InferenceClient has no call for multiple choice.",
  },
  text: {
    title: "Classification",
    route: "classify",
    suits: (model) => model.task === "classification" && !isInference(model),
    render: renderLabels,
    examples: {
      Warm: { text: "A quiet, generous film that earns every one of its tears." },
      Cold: { text: "Two hours long, and it feels like four." },
      Mixed: { text: "Lovely to look at, but the story never quite wakes up." },
    },
    body: ({ text }) => ({ text: text.value }),
    client: ({ text }) => classified(text),
    rows: { fields: { text: ["text", "sentence", "review", "content", "message", "comment", "body", "tweet"] }, ...labelled },
  },
  nli: {
    title: "Inference",
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
    client: ({ premise, hypothesis }) => classified({ text: premise, text_pair: hypothesis }),
    rows: {
      fields: { premise: ["premise", "sentence1", "text", "text1"], hypothesis: ["hypothesis", "sentence2", "text_pair", "text2"] },
      ...labelled,
    },
  },
  "zero-shot": {
    title: "Zero-shot",
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
    body: (controls) => ({ text: controls.text.value, ...candidates(controls) }),
    client: ({ text, candidate_labels, hypothesis_template, multi_label }) => ({
      method: "zero_shot_classification", arguments: { text, candidate_labels, hypothesis_template, multi_label },
    }),
    rows: {
      fields: { text: ["text", "sentence", "review", "content", "message", "comment", "body", "tweet"] },
      each: candidates, // the API takes these with each input, not for all of them
      ...labelled,
    },
  },
  score: {
    title: "Score",
    route: "classify",
    suits: (model) => model.task === "score",
    named: true,
    render: renderScore,
    examples: {
      "A pair": {
        text: "When was the Forth Bridge opened?",
        text_pair: "The bridge was opened on 4 March 1890 by the Prince of Wales.",
      },
      "A text": { text: "The bridge was opened on 4 March 1890 by the Prince of Wales.", text_pair: "" },
    },
    body: ({ text, text_pair }) => pair(text.value, text_pair.value),
    client: ({ text, text_pair }) => classified(text_pair === undefined ? text : { text, text_pair }),
    rows: {
      fields: {
        text: ["text", "query", "question", "sentence1", "text1", "sentence"],
        text_pair: ["text_pair", "passage", "document", "answer", "sentence2", "text2"],
      },
      optional: ["text_pair"],
      ...numbered,
    },
  },
  rank: {
    title: "Ranking",
    route: "classify",
    suits: (model) => model.rerank === true,
    named: true,
    render: renderRanking,
    examples: {
      Passages: {
        query: "When was the Forth Bridge opened?",
        texts: [
          "Painting the bridge was long a byword for a job that never ends.",
          "The bridge was opened on 4 March 1890 by the Prince of Wales.",
          "The Quebec Bridge was finished in 1919.",
          "Tickets cost 12 euros at the door.",
        ].join("\n"),
      },
    },
    body: ({ query, texts }) => ({ query: query.value, texts: separated(texts.value, "\n") }),
    client: () => "InferenceClient has no call for ranking.",
  },
};

const pair = (text, text_pair) => ({ text, ...(text_pair.trim() && { text_pair }) });

function candidates({ candidate_labels, hypothesis_template, multi_label }) {
  return {
    candidate_labels: separated(candidate_labels.value, ","),
    hypothesis_template: hypothesis_template.value,
    multi_label: multi_label.checked,
  };
}
