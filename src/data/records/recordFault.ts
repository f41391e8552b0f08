/**
 * The reason why a record cannot be used. It is thrown by code that does not know the record's file and
 * place.
 */
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

/** Returns the fault of a field whose value has the wrong type or form. `field`: "conversations[2].from". */
export function wrongField(field: string, message: string, fix: string): RecordFault {
  return new RecordFault(`has wrong fields: ${field}: ${message}`, fix);
}

const SHOWN_CHARACTERS = 60;

/**
 * Returns a value of a file for a message. Texts stand in quotes, are cut if they are long, and have their
 * control characters escaped.
 */
export function shownValue(value: unknown): string {
  if (typeof value === "string") {
    const cut = value.length > SHOWN_CHARACTERS;
    return `${JSON.stringify(value.slice(0, SHOWN_CHARACTERS))}${cut ? "..." : ""}`;
  }
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
