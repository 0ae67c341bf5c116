// Many inputs asked of the service: some requests at once, each with some of them, until every input has its prediction
// or the reason why it has none. Nothing here knows of the page.

const AGAIN = new Set([429, 503]); // the service says: later
const SMALLER = new Set([413, 422, 500, 504]); // it may be one input's fault, or the request's size
const LOST = 3; // tries of a request to a service that cannot be reached
const CHARACTERS = 100_000; // of a request, so that none is near the service's limit and none keeps others waiting

/** Why a run stopped before its end; `problem` is as `exchange` gives it. */
export class Stopped extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const stop = () => {
    clearTimeout(timer);
    reject(signal.reason);
  };
  const timer = setTimeout(() => {
    signal.removeEventListener("abort", stop);
    resolve();
  }, ms);
  if (signal.aborted) return stop();
  signal.addEventListener("abort", stop, { once: true });
});

/** The inputs that a problem names (as in `inputs.3.text`): position to reason. */
export function named({ field, detail, errors }) {
  const found = new Map();
  for (const each of errors ?? [{ field, detail }]) {
    const [, position, name] = /^inputs\.(\d+)(?:\.(.+))?$/.exec(each.field ?? "") ?? [];
    if (position === undefined || found.has(Number(position))) continue;
    const reason = each.detail.startsWith(`${each.field} `) ? each.detail.slice(each.field.length + 1) : each.detail;
    found.set(Number(position), [name, reason].filter(Boolean).join(": "));
  }
  return found;
}

/**
 * Asks of every index in `todo`.
 * @param ask (inputs, signal) to {reply: {results}} or {problem}
 * @param input index to its input
 * @param size most inputs a request; less where the service takes no more
 * @param lanes requests at once
 * @param wrong an input to why it is not worth asking, or null
 * @param settle told (index, prediction, null) or (index, null, reason), once for each index
 * @param waits told how many seconds all lanes wait, and of what problem
 * @throws Stopped; the signal's reason
 */
export async function askAll({ todo, ask, input, wrong = () => null, size, lanes, settle, waits = () => {}, signal }) {
  let next = 0;
  let most = size;
  let resume = 0; // when the lanes go on, by performance.now()
  let failed = null;
  const ended = new AbortController();
  const either = AbortSignal.any([signal, ended.signal]);

  function take() {
    const taken = [];
    for (let characters = 0; next < todo.length && taken.length < most; next++) {
      const value = input(todo[next]);
      const reason = wrong(value);
      if (reason) {
        settle(todo[next], null, reason);
        continue;
      }
      characters += JSON.stringify(value).length;
      if (taken.length && characters > CHARACTERS) break;
      taken.push({ index: todo[next], value });
    }
    return taken;
  }

  function hold(seconds, problem) {
    resume = Math.max(resume, performance.now() + 1000 * seconds);
    waits(seconds, problem);
  }

  async function solve(items) {
    for (let lost = 0, refused = 0; ; ) {
      for (let left; (left = resume - performance.now()) > 0; ) await sleep(left, either);
      const { reply, problem } = await ask(items.map(({ value }) => value), either);
      if (reply) return items.forEach(({ index }, i) => settle(index, reply.results[i], null));
      const { status } = problem;
      if (AGAIN.has(status)) {
        if (status === 503 && ++refused > 10) throw new Stopped(problem);
        hold(problem.retry_after ?? 2, problem);
      } else if (status === undefined && ++lost < LOST) {
        hold(lost, problem);
      } else if (SMALLER.has(status)) {
        return split(items, problem);
      } else {
        throw new Stopped(problem);
      }
    }
  }

  async function split(items, problem) {
    const guilty = named(problem);
    if (guilty.size) {
      for (const [position, reason] of guilty) settle(items[position].index, null, reason);
      const rest = items.filter((_, position) => !guilty.has(position));
      return rest.length ? solve(rest) : undefined;
    }
    if (problem.status === 422) throw new Stopped(problem); // what all inputs share is wrong
    if (items.length === 1) return settle(items[0].index, null, problem.detail || problem.title);
    const half = Math.ceil(items.length / 2);
    if (problem.status === 413) most = Math.min(most, half);
    await solve(items.slice(0, half));
    await solve(items.slice(half));
  }

  async function lane() {
    try {
      for (let items = take(); items.length; items = take()) await solve(items);
    } catch (error) {
      failed ??= error;
      ended.abort(error); // the others' answers would come to nobody
    }
  }

  await Promise.all(Array.from({ length: lanes }, lane));
  if (signal.aborted) throw signal.reason;
  if (failed) throw failed;
}
