/**
 * Types of the Chat screen's API. A `lorafit serve` of the page answers, and ends with the page's server.
 *
 * | route                      | returns                                                              |
 * | -------------------------- | -------------------------------------------------------------------- |
 * | GET /api/chat/state        | ChatState                                                            |
 * | POST /api/chat/start       | ChatState; the body is a ChatStart. Ends a server that runs already  |
 * | POST /api/chat/stop        | ChatState                                                            |
 * | POST /api/chat/completions | as POST /v1/chat/completions of `lorafit serve`, streaming too       |
 */

export interface ChatStart {
  model: string;
  /** Folders of adapters, by the name that requests call them. */
  adapters: Record<string, string>;
  /** An amount such as 16GiB; empty: no limit. */
  memory: string;
}

export type ChatState =
  | { state: "none" }
  | { state: "starting"; log: string }
  | { state: "ready"; models: string[] }
  /** log: the end of all that the server has printed. */
  | { state: "ended"; log: string };
