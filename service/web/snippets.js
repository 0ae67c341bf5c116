// The ways to call the service for what is on screen, as text to copy. Nothing here knows of the page.
//
// A key never stands in a snippet: it is read from the environment variable BERTIE_KEY.

/** `text` as one word of a POSIX shell. */
export const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A JSON value as Python writes it. */
export function python(value, indent = "") {
  const inner = `${indent}    `;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const items = list
    ? value.map((item) => python(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  const line = `${open}${items.join(", ")}${close}`;
  return line.length + indent.length <= 100 && !line.includes("\n")
    ? line
    : `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
}

/** Bytes from which a body is no argument: Linux takes 128 kB for each. */
const LONG = 100_000;

function curl({ url, body, keyed }) {
  const json = JSON.stringify(body);
  const lines = [`curl ${shellQuote(url)}`, `-H 'Content-Type: application/json'`];
  if (keyed) lines.push(`-H "Authorization: Bearer $BERTIE_KEY"`);
  return json.length < LONG
    ? [...lines, `-d ${shellQuote(json)}`].join(" \\\n  ")
    : `${[...lines, "--data-binary @-"].join(" \\\n  ")} <<'EOF'\n${json}\nEOF`;
}

function requests({ url, body, keyed }) {
  return [
    ...(keyed ? ["import os", ""] : []),
    "import requests",
    "",
    "response = requests.post(",
    `    ${python(url)},`,
    ...(keyed ? [`    headers={"Authorization": "Bearer " + os.environ["BERTIE_KEY"]},`] : []),
    `    json=${python(body, "    ")},`,
    ")",
    "response.raise_for_status()",
    "print(response.json())",
  ].join("\n");
}

/** One call a row: the client has no call for many. */
function inferenceClient({ root, model, calls, keyed }) {
  const reason = calls.find((call) => typeof call === "string");
  if (reason) return `# ${reason}`;
  const url = model ? new URL(`models/${encodeURIComponent(model)}`, root).href : root;
  const [{ method }] = calls;
  const rows = calls.map((call) => JSON.parse(JSON.stringify(call.arguments))); // what is undefined is no argument
  return [
    ...(keyed ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient(model=${python(url)}${keyed ? `, token=os.environ["BERTIE_KEY"]` : ""})`,
    ...(rows.length === 1
      ? [
          `answer = client.${method}(`,
          ...Object.entries(rows[0]).map(([name, value]) => `    ${name}=${python(value, "    ")},`),
          ")",
          "print(answer)",
        ]
      : [
          `rows = ${python(rows)}`,
          "for row in rows:",
          `    print(client.${method}(**row))`,
        ]),
  ].join("\n");
}

function javascript({ url, body, keyed }) {
  const headers = [`"Content-Type": "application/json"`];
  if (keyed) headers.push("Authorization: `Bearer ${process.env.BERTIE_KEY}`");
  return [
    `const response = await fetch(${JSON.stringify(url)}, {`,
    `  method: "POST",`,
    `  headers: { ${headers.join(", ")} },`,
    `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),`,
    "});",
    "if (!response.ok) throw new Error(await response.text());",
    "console.log(await response.json());",
  ].join("\n");
}

/**
 * Name to writer. What they take: `url` of the route, `root` of the service, `body`, `model` if one is chosen, `keyed`
 * where the service wants a key, and `calls`, the InferenceClient's {method, arguments} of each row, or why there is none.
 */
export const WAYS = { curl, Python: requests, InferenceClient: inferenceClient, JavaScript: javascript };
