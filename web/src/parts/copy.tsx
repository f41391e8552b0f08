/** A command or a configuration with a button that copies it. */
import { useEffect, useState } from "preact/hooks";

export function CopyBlock({ text, label }: { text: string; label: string }) {
  return (
    <div class="copy-block">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: long lines scroll, also by keyboard. */}
      <section tabIndex={0} aria-label={label}>
        <pre>{text}</pre>
      </section>
      <CopyButton text={text} label={label} />
    </div>
  );
}

export function CopyButton({ text, label }: { text: string; label: string }) {
  const [state, setState] = useState<"idle" | "copied" | "failed">("idle");
  useEffect(() => {
    if (state === "idle") return;
    const timer = window.setTimeout(() => setState("idle"), 2_000);
    return () => window.clearTimeout(timer);
  }, [state]);
  const words = { idle: "Copy", copied: "Copied", failed: "Select the text and copy it" }[state];
  return (
    <button
      type="button"
      aria-label={`${words}: ${label}`}
      onClick={() => copy(text).then((done) => setState(done ? "copied" : "failed"))}
    >
      <span aria-live="polite">{words}</span>
    </button>
  );
}

/** Copies a text; false if the browser forbids it. Pages that are not from loopback or https lack `clipboard`. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {}
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
