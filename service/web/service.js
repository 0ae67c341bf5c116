// Talking to the service: one exchange, the key, and what the models are.

import { retryAfter } from "./text.js";

let token = ""; // in memory only
let models = [];

export const useToken = (value) => (token = value);
export const hasToken = () => token !== "";
export const loaded = () => models;
export const modelNamed = (name) => models.find((model) => model.name === name);
export const address = (path) => new URL(path, document.baseURI).href;

/**
 * One exchange in JSON.
 * @returns {reply, raw, response, elapsed}, or {problem, raw, response} with a problem that always has a title
 * @throws AbortError alone
 */
export async function exchange(path, body, signal) {
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
    if (response.ok) return { reply: parsed, raw, response, elapsed };
    const problem = { title: response.statusText || "Error", ...parsed, status: response.status };
    problem.request_id ??= response.headers.get("X-Request-Id");
    problem.retry_after = retryAfter(response.headers.get("Retry-After"));
    return { problem, raw, response };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const problem = response
      ? { status: response.status, title: "Not an answer of this service", detail: "The body is not JSON. Is there a proxy between?" }
      : { title: "The service cannot be reached", detail: "Is it running? The browser's console says more." };
    return { problem, raw, response };
  }
}

/** Asks which models are loaded, and remembers them. */
export async function askModels() {
  const outcome = await exchange("models");
  if (outcome.reply) models = outcome.reply.models;
  return outcome;
}

/** The metrics' text (Prometheus' format); null where the service does not show them here. Rejects when it is gone. */
export async function metrics() {
  const response = await fetch("metrics", { headers: { Accept: "text/plain" } });
  return response.ok ? await response.text() : null;
}
