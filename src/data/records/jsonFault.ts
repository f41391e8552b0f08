/** Finds the place where a text stops being JSON. JSON.parse names no line, and often no position either. */
import jsonc from "jsonc-parser";

export interface JsonFault {
  /** Line from 1, as editors count. */
  line: number;
  column: number;
  /** The thing that JSON would have there: "a value", "a comma or a closing bracket". */
  expected: string;
}

/** The expected thing, by the parser's name of the fault. */
const EXPECTED: Readonly<Record<string, string>> = {
  PropertyNameExpected: "a name in quotes",
  ColonExpected: "a colon",
  CommaExpected: "a comma or a closing bracket",
  CloseBraceExpected: "a comma or }",
  CloseBracketExpected: "a comma or ]",
  EndOfFileExpected: "the end",
  InvalidNumberFormat: "a number",
  UnexpectedEndOfNumber: "a number",
  UnexpectedEndOfString: 'a string that ends with " on its line',
  InvalidUnicode: "\\u and four hexadecimal digits",
  InvalidEscapeCharacter: "one of JSON's escapes, such as \\n or \\\\",
  InvalidCharacter: 'a string without control characters (a line end is "\\n")',
};

/** Returns the first fault of a text that JSON.parse refuses. */
export function jsonFault(text: string): JsonFault {
  let first: JsonFault | undefined;
  try {
    jsonc.visit(
      text,
      {
        onError(code, _offset, _length, startLine, startCharacter) {
          first ??= {
            line: startLine + 1,
            column: startCharacter + 1,
            expected: EXPECTED[jsonc.printParseErrorCode(code)] ?? "a value",
          };
        },
      },
      { disallowComments: true, allowTrailingComma: false },
    );
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the parser is recursive
    first ??= { line: 1, column: 1, expected: "JSON that is not nested so deeply" };
  }
  return first ?? { line: 1, column: 1, expected: "JSON" };
}
