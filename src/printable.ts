/**
 * Makes text from files and libraries safe for a terminal and a page: characters that steer a terminal or
 * turn the direction of writing are shown as escapes instead of being sent.
 */

/** Longest name in a message, in characters. */
const MOST_NAME_CHARACTERS = 120;
/** A longer word is not a path that anyone keeps files under: it is a picture as base64, or an attack. */
const MOST_WORD_CHARACTERS = 300;
const MOST_LINE_CHARACTERS = 4000;

/**
 * Control characters except tab and line end, marks and overrides of direction, line separators, halves of
 * characters.
 */
const STEERING = /(?![\n\t])[\p{Cc}\p{Bidi_Control}\p{Cs}\u2028\u2029]/gu;
const SHORT_ESCAPES: Readonly<Record<string, string>> = { "\r": "\\r", "\n": "\\n", "\t": "\\t" };

/**
 * Returns the text with steering characters as escapes such as `\u001b`; line ends and tabs stay. UserError,
 * Output and the pages pass everything through it.
 */
export function printable(text: string): string {
  return text.replace(STEERING, escaped);
}

/** Returns a name from a file as a message shows it: on one line, escaped, at most 120 characters. */
export function shownName(name: string): string {
  return printable(cut(name, MOST_NAME_CHARACTERS).replace(/[\n\t]/g, escaped));
}

/** Returns a message as people are shown it: escaped, with words and lines cut that no one could read. */
export function printableMessage(message: string): string {
  const short = (part: string): string =>
    part.length > MOST_WORD_CHARACTERS ? cut(part, MOST_NAME_CHARACTERS) : part;
  const named = message.replace(/"([^"\n]*)"/g, (_, name: string) => `"${short(name)}"`);
  return printableLines(named.replace(/\S+/g, short));
}

/**
 * Returns commands and settings as people are shown them: escaped; words stay whole, because commands are
 * copied.
 */
export function printableLines(text: string): string {
  return printable(text.replace(/.+/g, (line) => cut(line, MOST_LINE_CHARACTERS)));
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)}... (${text.length} characters)` : text;
}

function escaped(character: string): string {
  return SHORT_ESCAPES[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
