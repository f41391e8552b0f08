/**
 * Types of the New run screen's API.
 *
 * | route                   | returns                                                            |
 * | ----------------------- | ------------------------------------------------------------------ |
 * | GET /api/newRun/form    | RunForm                                                              |
 * | POST /api/newRun/check  | RunCheck; the body is a RunDraft                                   |
 * | POST /api/newRun/start  | RunStarted; the body is a RunDraft. 400 with ApiError if a field is wrong |
 * | GET /api/newRun/started | StartState; the query is `path`, as RunStarted has it              |
 *
 * A run that was started is a process of its own: it continues when the server of the page ends.
 */

/** The options of `lorafit train`, from its schema. */
export interface RunForm {
  /** FOLDER of `lorafit ui`: paths in the form start there. */
  folder: string;
  groups: { name: string; fields: RunField[] }[];
}

export interface RunField {
  /** Name in a configuration: lora_r. */
  key: string;
  flag: string;
  /** switch: true or false; value: a value; either: a switch that may have a value. */
  kind: "switch" | "value" | "either";
  numeric: boolean;
  /** Whether the value is a list. */
  many: boolean;
  required: boolean;
  /** The default as `--help` shows it; absent if it depends on something, which the help says then. */
  preset?: string;
  help: string;
  /** Right values in words. */
  takes: string;
  /** Placeholder: FOLDER. */
  value: string;
  /** The only right values. */
  choices?: string[];
}

/** Fields as they are filled in. An empty text, an empty list or an absent field leaves the default. */
export type RunDraft = { options: Record<string, string | boolean | string[]> };

export interface RunCheck {
  /** Errors by field, in the words of the command line. */
  errors: Record<string, { error: string; fix?: string }>;
  /** Things that work but are unusual. */
  cautions: string[];
  /** The `lorafit train` line. */
  command: string;
}

export interface RunStarted {
  /** Path of the run below FOLDER, with `/`. */
  path: string;
  pid: number;
}

export interface StartState {
  /** ended: the process is gone; its log says why. */
  state: "running" | "ended";
  exitCode?: number | null;
  /** End of what the process has printed. */
  log: string;
}
