/** Follows the server of the Chat screen. */
import { useEffect, useState } from "preact/hooks";
import type { ChatStart, ChatState } from "../../../../src/server/ui/chat/chatApi.ts";
import { getJson, postJson } from "../../api.ts";

const LOOK_MS = 700;

export interface ChatServer {
  state: ChatState | undefined;
  problem?: unknown;
  start: (asked: ChatStart) => void;
  stop: () => void;
}

export function useServer(): ChatServer {
  const [known, setKnown] = useState<{ state?: ChatState; problem?: unknown }>({});
  const take = (answer: Promise<ChatState>): void => {
    answer.then(
      (state) => setKnown({ state }),
      (problem: unknown) => setKnown((before) => ({ ...before, problem })),
    );
  };
  useEffect(() => {
    take(getJson<ChatState>("chat/state"));
    const timer = setInterval(() => take(getJson<ChatState>("chat/state")), LOOK_MS);
    return () => clearInterval(timer);
  }, []);
  return {
    ...{ state: known.state, problem: known.problem },
    start: (asked) => take(postJson<ChatState>("chat/start", asked)),
    stop: () => take(postJson<ChatState>("chat/stop")),
  };
}
