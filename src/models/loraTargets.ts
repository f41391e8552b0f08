/** Names of linears as a regular expression over module names, and back. */

const [BEFORE, BEHIND] = ["(?:^|\\.)(?:", ")$"];

/** Returns the expression that matches modules whose last names are one of these. */
export function patternOfNames(names: readonly string[]): string {
  return `${BEFORE}${names.map((name) => name.replaceAll(".", "\\.")).join("|")}${BEHIND}`;
}

/** Returns an expression for a message, with names as they were written. */
export function shownTargets(pattern: string): string {
  const end = pattern.indexOf(BEHIND);
  if (!pattern.startsWith(BEFORE) || end < 0) return pattern;
  const names = pattern.slice(BEFORE.length, end).split("|");
  const others = pattern.slice(end + BEHIND.length + 1); // behind "|"
  return [...names.map((name) => name.replaceAll("\\.", ".")), ...(others ? [others] : [])].join(", ");
}
