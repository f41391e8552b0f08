/** What makes a record unusable, thrown where the record's file and place are not known. */
export class RecordFault extends Error {
  readonly clause: string;
  readonly fix: string;

  /** `clause` continues a sentence after the sample's name: "has 2 pictures but 1 place for them". */
  constructor(clause: string, fix: string) {
    super(clause);
    this.clause = clause;
    this.fix = fix;
  }
}

/** A field whose value has the wrong type or form. `field`: "conversations[2].from". */
export function wrongField(field: string, message: string, fix: string): RecordFault {
  return new RecordFault(`has wrong fields: ${field}: ${message}`, fix);
}

const SHOWN_CHARACTERS = 60;

/** A value of a file for a message: texts in quotes, cut if they are long, control characters escaped. */
export function shownValue(value: unknown): string {
  if (typeof value === "string") {
    const cut = value.length > SHOWN_CHARACTERS;
    return `${JSON.stringify(value.slice(0, SHOWN_CHARACTERS))}${cut ? "..." : ""}`;
  }
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
