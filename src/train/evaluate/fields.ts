/**
 * Reads an answer in JSON as fields: a path of keys and a value, as Donut's JSONParseEvaluator flattens it.
 * Places in lists do not count, so that {"menu": [{"name": "cake"}]} has the field menu, name, "cake".
 */

/**
 * Returns the fields of a text, each as one string; undefined if the text is not an object or a list in JSON.
 * Empty texts, null, and empty objects and lists are no fields. Values are compared as texts without white
 * space around them.
 */
export function fieldsOf(text: string): string[] | undefined {
  const value = parsed(text);
  return typeof value === "object" && value !== null ? flattened(value) : undefined;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Walks without recursion: an untrained model may open a thousand brackets. */
function flattened(root: object): string[] {
  const open: { value: unknown; path: readonly string[] }[] = [{ value: root, path: [] }];
  const fields: string[] = [];
  for (let next = open.pop(); next; next = open.pop()) {
    const { value, path } = next;
    if (Array.isArray(value)) open.push(...value.map((item) => ({ value: item, path })));
    else if (typeof value === "object" && value !== null)
      for (const [key, child] of Object.entries(value)) open.push({ value: child, path: [...path, key] });
    else {
      const text = value === null ? "" : String(value).trim();
      if (text !== "") fields.push(JSON.stringify([...path, text]));
    }
  }
  return fields;
}
