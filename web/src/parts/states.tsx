/** What a screen shows while it waits, when there is nothing, and when something is wrong. */
import type { ComponentChildren } from "preact";
import { ApiProblem } from "../api.ts";

export function Loading({ what }: { what: string }) {
  return (
    <p class="muted" role="status">
      Loading {what}…
    </p>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <div class="empty">{children}</div>;
}

/** Says what is wrong, and below it what to do. */
export function Problem({ of, retry }: { of: unknown; retry?: () => void }) {
  const message = of instanceof Error ? of.message : String(of);
  return (
    <div class="problem" role="alert">
      <p>{message}</p>
      {of instanceof ApiProblem && of.fix.map((line) => <p key={line}>{line}</p>)}
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}
