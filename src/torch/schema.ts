/**
 * Parses operator schemas in libtorch's format: "aten::add.Tensor(Tensor self, Tensor other, *, Scalar
 * alpha=1) -> Tensor".
 */

export interface SchemaArgument {
  name: string;
  /** Type without alias marks: "Tensor", "int[2]?", "ScalarType?". */
  type: string;
  /** Whether the operator writes to it. */
  written: boolean;
  hasDefault: boolean;
  keywordOnly: boolean;
}

export interface Schema {
  /** Name with its overload: "aten::add.Tensor". */
  name: string;
  arguments: SchemaArgument[];
  returns: { name: string | undefined; type: string; written: boolean }[];
}

/** Parses a schema's text. */
export function parseSchema(text: string): Schema {
  const open = text.indexOf("(");
  const close = matching(text, open);
  const returns = text.slice(close + 1).replace(/^\s*->\s*/, "");
  const returned =
    returns.startsWith("(") && matching(returns, 0) === returns.length - 1 ? returns.slice(1, -1) : returns;
  const parts = splitTop(text.slice(open + 1, close));
  const star = parts.indexOf("*");
  return {
    name: text.slice(0, open),
    arguments: parts.flatMap((part, index) =>
      part === "*" ? [] : [parseArgument(part, star >= 0 && index > star)],
    ),
    returns: splitTop(returned).map(parseReturn),
  };
}

function parseArgument(text: string, keywordOnly: boolean): SchemaArgument {
  const [declaration = ""] = text.split("=");
  const space = declaration.lastIndexOf(" ");
  return {
    name: declaration.slice(space + 1),
    ...parseType(declaration.slice(0, space)),
    hasDefault: text.includes("="),
    keywordOnly,
  };
}

function parseReturn(text: string): Schema["returns"][number] {
  const named = /^(.*) (\w+)$/.exec(text);
  return { name: named?.[2], ...parseType(named?.[1] ?? text) };
}

/** Splits off alias marks: "Tensor(a!)?" becomes type "Tensor?", written. */
function parseType(text: string): { type: string; written: boolean } {
  return { type: text.replace(/\([^)]*\)/g, ""), written: text.includes("!") };
}

/** Returns the index of the parenthesis that closes the one at `open`. */
function matching(text: string, open: number): number {
  let depth = 0;
  for (let index = open; index < text.length; index++) {
    if (text[index] === "(") depth++;
    if (text[index] === ")" && --depth === 0) return index;
  }
  throw new Error(`unbalanced schema: ${text}`);
}

/** Splits at the commas outside of brackets. */
function splitTop(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let index = 0; index <= text.length; index++) {
    const letter = text[index];
    if (letter === "(" || letter === "[") depth++;
    if (letter === ")" || letter === "]") depth--;
    if (letter === undefined || (letter === "," && depth === 0)) {
      parts.push(text.slice(start, index).trim());
      start = index + 1;
    }
  }
  return parts.filter((part) => part !== "");
}
