// Checks the comments of all sources: at most 110 columns, and no puzzling first words
// (docs/contributing.md). node scripts/lintComments.js [FILE...]: prints FILE:LINE for each fault, and exits
// with 1 if there is any.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

const MAX_COLUMNS = 110;
const ODD_START = /^(Of|What|The same|By which|As|Whose) /;
const SOURCES = ["src", "native", "tests", "bench", "scripts"];

const files = process.argv.length > 2 ? process.argv.slice(2) : trackedSources();
const faults = files.flatMap((file) => commentFaults(file, readFileSync(file, "utf8")));
for (const fault of faults) console.log(fault);
if (faults.length > 0) {
  console.log(`${faults.length} comments need other words: docs/contributing.md, "Comments", says how.`);
  process.exitCode = 1;
}

function trackedSources() {
  const names = execFileSync("git", ["ls-files", ...SOURCES], { encoding: "utf8", maxBuffer: 2 ** 26 });
  return names.split("\n").filter((name) => /\.(ts|js|cc|h)$/.test(name) && !name.includes(".gen."));
}

/** Only comments that begin a line count: a long comment at a line's end is the formatter's business. */
function commentFaults(file, text) {
  const faults = [];
  let isInside = false; // of a block comment
  let continues = false; // the line before was a line comment
  let awaitsText = false; // a block comment has begun without words
  for (const [index, line] of text.split("\n").entries()) {
    const { body, opens } = commentOf(line, isInside);
    if (body !== undefined) {
      if (line.length > MAX_COLUMNS) faults.push(`${file}:${index + 1}: ${line.length} columns`);
      const isFirst = opens === "block" || awaitsText || (opens === "line" && !continues);
      const words = ODD_START.exec(body)?.[1];
      if (isFirst && words) faults.push(`${file}:${index + 1}: begins with "${words}"`);
      awaitsText = (opens === "block" || awaitsText) && body === "";
    }
    if (opens === "block" || isInside) isInside = !line.includes("*/");
    continues = opens === "line";
  }
  return faults;
}

/** Returns the words of a line's comment, undefined without one, and the kind of comment that it opens. */
function commentOf(line, isInside) {
  if (isInside) return { body: wordsOf(line.replace(/^\s*\*?\/?\s?/, "")) };
  const [, marks, rest] = /^\s*(\/\*\*?|\/\/\/?)\s?(.*)$/.exec(line) ?? [];
  if (!marks) return {};
  return { body: wordsOf(rest), opens: marks.startsWith("/*") ? "block" : "line" };
}

function wordsOf(text) {
  return text.replace(/\*\/.*$/, "").trim();
}
