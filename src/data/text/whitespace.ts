/** Strips the whitespace that Python strips, because the official code is written in Python. */

// Differs from JavaScript's \s: \x1c to \x1f and \x85 count, \ufeff doesn't.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const AT_START = new RegExp(`^${SPACE}+`);
const SPACE_CHARACTER = new RegExp(SPACE);

export function trimStart(text: string): string {
  return text.replace(AT_START, "");
}

/** Walks from the end. A pattern bound to the end would try every run of spaces in between. */
export function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && SPACE_CHARACTER.test(text[end - 1] as string)) end--;
  return text.slice(0, end);
}

export function trim(text: string): string {
  return trimStart(trimEnd(text));
}
