/**
 * Limits on JSON from files. JSON.parse takes up to 50 bytes of memory for a byte of text (lists within
 * lists), so text is measured before it is parsed.
 */
import { formatCount } from "../../errors.ts";

export interface JsonLimits {
  /** Lists and objects within each other. */
  depth: number;
  /** Commas and colons, about one for each value and key. */
  items: number;
}

/** Says in a clause what of JSON text exceeds the limits, before it is parsed; undefined if nothing does. */
export function jsonExcess(json: Uint8Array, limits: JsonLimits): string | undefined {
  let depth = 0;
  let items = 0;
  for (let at = 0; at < json.length; at++) {
    switch (json[at]) {
      case QUOTE:
        at = json.indexOf(QUOTE, at + 1);
        while (at >= 0 && isEscaped(json, at)) at = json.indexOf(QUOTE, at + 1);
        if (at < 0) return undefined; // no JSON
        break;
      case OPEN_BRACE:
      case OPEN_BRACKET:
        if (++depth > limits.depth) return `is nested ${depth} deep`;
        break;
      case CLOSE_BRACE:
      case CLOSE_BRACKET:
        depth--;
        break;
      case COMMA:
      case COLON:
        if (++items > limits.items) return `has more than ${formatCount(limits.items)} values`;
    }
  }
  return undefined;
}

const [QUOTE, BACKSLASH, COMMA, COLON] = Buffer.from('"\\,:') as unknown as [number, number, number, number];
const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET] = Buffer.from("{}[]") as unknown as number[];

/** Whether an odd number of backslashes stands before a character. */
function isEscaped(json: Uint8Array, at: number): boolean {
  let before = at;
  while (json[before - 1] === BACKSLASH) before--;
  return (at - before) % 2 === 1;
}
