// Tables as people have them: CSV, TSV and JSON lines to columns and rows, and back. Nothing here knows of the page.

const SEPARATORS = [",", "\t", ";", "|"];
const SAMPLE = 50; // records that the separator is told by

export class TableError extends Error {}

/** A file's bytes as text, by its byte order mark, else UTF-8, else Windows-1252 (what old spreadsheets write). */
export function decode(bytes) {
  const [first, second, third] = new Uint8Array(bytes, 0, Math.min(3, bytes.byteLength));
  const mark = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : null;
  if (mark) return { text: new TextDecoder(mark).decode(bytes), encoding: mark, bom: true };
  const bom = first === 0xef && second === 0xbb && third === 0xbf;
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes), encoding: "utf-8", bom };
  } catch {
    return { text: new TextDecoder("windows-1252").decode(bytes), encoding: "windows-1252", bom };
  }
}

/**
 * The records of delimited text, each an array of fields, after RFC 4180: quoted fields may hold the separator, line ends
 * and doubled quotes. A quote that closes nowhere, or before more text, is text, as it is in files that quote nothing.
 * Blank lines are no records.
 * @param separator null where every line is one field, whatever it holds
 */
export function* delimited(text, separator) {
  const [comma, quote, feed, carriage] = [separator?.charCodeAt(0) ?? -1, 34, 10, 13];
  let at = text.startsWith("\ufeff") ? 1 : 0;
  let fields = [];
  while (at < text.length) {
    const quoted = separator !== null && text.charCodeAt(at) === quote ? quotedField(text, at, separator) : null;
    let end = quoted?.end ?? at;
    let code = text.charCodeAt(end); // NaN past the end
    while (end < text.length && code !== comma && code !== feed && code !== carriage) code = text.charCodeAt(++end);
    fields.push(quoted ? quoted.field : text.slice(at, end));
    at = end + 1;
    if (code === comma) {
      if (at < text.length) continue;
      fields.push(""); // the file ends with a separator
    }
    if (code === carriage && text.charCodeAt(at) === feed) at += 1;
    if (fields.length > 1 || fields[0] !== "" || quoted) yield fields;
    fields = [];
  }
}

/** The quoted field that begins at `start`, and where it ends; null where it is none. */
function quotedField(text, start, separator) {
  let end = start;
  do {
    end = text.indexOf('"', end + 1);
    if (end < 0) return null;
    if (text[end + 1] !== '"') break;
    end += 1;
  } while (true);
  const next = text[end + 1];
  if (next !== undefined && next !== separator && next !== "\n" && next !== "\r") return null;
  return { field: text.slice(start + 1, end).replaceAll('""', '"'), end: end + 1 };
}

/** The separator under which most of the first records have equally many fields, and more than one; null: none. */
export function separatorOf(text) {
  let best = { separator: null, fields: 1 };
  for (const separator of SEPARATORS) {
    const lengths = [];
    for (const record of delimited(text, separator)) if (lengths.push(record.length) === SAMPLE) break;
    const fields = lengths[0] ?? 0;
    const alike = lengths.filter((length) => length === fields).length;
    if (fields > best.fields && alike >= 0.9 * lengths.length) best = { separator, fields };
  }
  if (best.separator !== null) return best.separator;
  // One column: with quotes as CSV writes them, or bare lines.
  for (const record of delimited(text.slice(0, 100_000), ",")) if (record.length > 1) return null;
  return ",";
}

/** Whether a first record names columns: short distinct names, no sentence among them. */
export const namesColumns = (record) =>
  new Set(record).size === record.length &&
  record.every((cell) => cell.trim() !== "" && cell.length <= 40 && cell.trim().split(/\s+/).length <= 4 && !/^[\d.,-]+$|[.!?]$/.test(cell));

/** The values of JSON lines, or of one array. @throws TableError naming the line */
function* jsonValues(text) {
  if (text.startsWith("[")) {
    try {
      return yield* JSON.parse(text);
    } catch (error) {
      throw new TableError(`It begins as a JSON array and is none: ${error.message}`);
    }
  }
  for (let number = 1, at = 0; at < text.length; number++) {
    const end = text.indexOf("\n", at);
    const line = text.slice(at, end < 0 ? text.length : end);
    at += line.length + 1;
    if (!line.trim()) continue;
    try {
      yield JSON.parse(line);
    } catch (error) {
      throw new TableError(`Line ${number} is not JSON: ${error.message}`);
    }
  }
}

/**
 * Reads a table's text.
 * @param collect turns an iterator into an array, without freezing the page
 * @param header whether the first record names the columns; null: as it looks
 * @returns {{kind: "csv" | "jsonl", separator: ?string, header: boolean, columns: string[], rows: any[][]}}
 * @throws TableError with what is wrong
 */
export async function readTable(text, { header = null, collect = async (items) => [...items] } = {}) {
  const plain = text.replace(/^[\ufeff\s]+/, "");
  if (!plain) throw new TableError("It holds no text.");
  if (/^\{|^\[\s*[{"]/.test(plain)) {
    const values = await collect(jsonValues(plain));
    const columns = new Map();
    for (const [index, value] of values.entries()) {
      if (typeof value === "string") values[index] = { text: value };
      else if (value === null || typeof value !== "object" || Array.isArray(value))
        throw new TableError(`Row ${index + 1} is neither an object nor a text.`);
      for (const name of Object.keys(values[index])) if (!columns.has(name)) columns.set(name, columns.size);
    }
    const names = [...columns.keys()];
    return { kind: "jsonl", separator: null, header: true, columns: names, rows: values.map((value) => names.map((name) => value[name])) };
  }
  const separator = separatorOf(text);
  const rows = await collect(delimited(text, separator));
  const named = header ?? namesColumns(rows[0]);
  const width = rows.slice(0, SAMPLE).reduce((most, row) => Math.max(most, row.length), 0);
  const first = named ? rows.shift() : [];
  const taken = new Set();
  const columns = Array.from({ length: width }, (_, index) => free(first[index]?.trim() || `column ${index + 1}`, taken));
  if (!rows.length) throw new TableError("It holds the names of columns and no rows.");
  return { kind: "csv", separator, header: named, columns, rows };
}

/** `name` as it is, or with a number where it is taken. */
function free(name, taken) {
  let other = name;
  for (let number = 2; taken.has(other); number++) other = `${name} ${number}`;
  taken.add(other);
  return other;
}

/** One value as a field of delimited text. */
export function field(value, separator) {
  const text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
  return /["\n\r]/.test(text) || text.includes(separator) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * The table with more columns, as delimited text, a line at a time (RFC 4180; CRLF ends a line).
 * @param added {column: value} of each row, by index
 */
export function* writeDelimited({ columns, rows }, added, separator) {
  const taken = new Set(columns);
  const names = new Map(); // in the order that they are met
  rows.forEach((_, index) => {
    for (const name of Object.keys(added(index))) if (!names.has(name)) names.set(name, free(name, taken));
  });
  const line = (fields) => `${fields.map((value) => field(value, separator)).join(separator)}\r\n`;
  yield line([...columns, ...names.values()]);
  for (const [index, row] of rows.entries()) {
    const more = added(index);
    yield line([...columns.map((_, i) => row[i]), ...[...names.keys()].map((name) => more[name])]);
  }
}

/** The table as JSON lines, a line at a time, each row with what `added` gives of it under names of its own. */
export function* writeJsonLines({ columns, rows }, added) {
  for (const [index, row] of rows.entries()) {
    const record = Object.fromEntries(columns.map((name, i) => [name, row[i]]));
    for (const [name, value] of Object.entries(added(index))) record[free(name, new Set(columns))] = value;
    yield `${JSON.stringify(record)}\n`;
  }
}
