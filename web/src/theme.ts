/** Light or dark: the system's choice, until the user chooses. The choice is kept in this browser. */
import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const KEY = "lorafit.theme";
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<Theme>(storedTheme());
/** Counts changes of the colours in use. What draws on a canvas reads it to draw again. */
export const paint = signal(0);

export function applyTheme(): void {
  if (theme.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  paint.value++;
}

export function chooseTheme(chosen: Theme): void {
  theme.value = chosen;
  try {
    localStorage.setItem(KEY, chosen);
  } catch {} // A browser that keeps nothing still shows the theme.
  applyTheme();
}

systemIsDark.addEventListener("change", applyTheme);

function storedTheme(): Theme {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === "light" || stored === "dark" ? stored : "system";
  } catch {
    return "system";
  }
}

/** Returns the colour of a CSS variable such as "--tone-1" as canvas accepts it, in the theme in use. */
export function colorOf(variable: string): string {
  const probe = document.createElement("i");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
