/** The time for ages, which grow while nothing else changes. */
import { signal } from "@preact/signals";

export const nowMs = signal(Date.now());

window.setInterval(() => {
  if (!document.hidden) nowMs.value = Date.now();
}, 5_000);
