/** Checks the form a moment after each change. */
import { useEffect, useState } from "preact/hooks";
import type { RunCheck, RunDraft } from "../../../../src/server/ui/newRun/newRunApi.ts";
import { postJson } from "../../api.ts";

const PAUSE_MS = 150;

/** Returns the newest check, undefined before the first, and a function that puts a newer one in its place. */
export function useCheck(draft: RunDraft): [RunCheck | undefined, (check: RunCheck) => void] {
  const [check, setCheck] = useState<RunCheck | undefined>(undefined);
  useEffect(() => {
    const cancel = new AbortController();
    const timer = setTimeout(() => {
      postJson<RunCheck>("newRun/check", draft, cancel.signal).then(setCheck, () => {}); // Start says what is wrong
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      cancel.abort();
    };
  }, [draft]);
  return [check, setCheck];
}
