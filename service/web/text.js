// Texts and numbers as people and machines read them. Nothing here knows of the page.

/** UTF-16 range of the half-open code point range [start, end) of `text`. */
export function codeUnits(text, start, end) {
  const range = [text.length, text.length];
  let point = 0;
  for (let unit = 0; unit < text.length; point++) {
    if (point === start) range[0] = unit;
    if (point === end) {
      range[1] = unit;
      break;
    }
    unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
  }
  return range;
}

/** Whether a text holds no character that can be seen: the service refuses such. */
export const isBlank = (text) => !/[^\s\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff]/.test(text);

/** Milliseconds by name of a Server-Timing header (W3C Server Timing, section 2). */
export function serverTiming(header) {
  const durations = new Map();
  for (const metric of (header ?? "").split(",")) {
    const [name, ...parameters] = metric.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => /^dur\s*=/i.test(parameter));
    if (name && duration) durations.set(name, Number(duration.split("=")[1].replaceAll('"', "")) || 0);
  }
  return durations;
}

/** Seconds that a Retry-After header asks to wait (RFC 9110, section 10.2.3): a number or a date; null where neither. */
export function retryAfter(header, now = Date.now()) {
  if (header === null || header.trim() === "") return null;
  const seconds = /^\d+$/.test(header.trim()) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(0, seconds);
}

export function percent(score) {
  if (score > 0 && score < 0.001) return "< 0.1 %";
  if (score < 1 && score > 0.999) return "> 99.9 %";
  return `${(100 * score).toFixed(1)} %`;
}

export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;

/** A whole number with its thousands apart. */
export const count = (number) => Math.round(number).toLocaleString("en");

/** `12 rows`, `1 row`. */
export const many = (number, noun) => `${count(number)} ${noun}${Math.round(number) === 1 ? "" : "s"}`;

/** A rate or a mean, in as many digits as tell something. */
export const figure = (number) => (number >= 100 ? count(number) : number >= 10 ? number.toFixed(0) : number.toFixed(1));

export function duration(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
