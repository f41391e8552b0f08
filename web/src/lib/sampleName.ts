/** Names samples as error messages do. */
import type { NamedSample } from "../../../src/server/ui/api.ts";

/** Returns "pages.json: sample 6", or "data.jsonl: line 7", with the record's id. */
export function sampleName({ file, index, line, id }: NamedSample["sample"]): string {
  const place = line === undefined ? `sample ${index}` : `line ${line}`;
  return `${file.split("/").at(-1)}: ${place}${id === undefined ? "" : ` (${id})`}`;
}
