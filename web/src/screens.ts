/** Every screen of the page. `load` brings its code when it is first opened; `label` puts it into the navigation. */
import type { ComponentType } from "preact";

export interface Screen {
  /** Shown in the browser's title, and spoken when the screen opens. */
  title: string;
  /** Word in the navigation; absent for screens that others link to. */
  label?: string;
  load(): Promise<ComponentType>;
}

export const SCREENS: Readonly<Record<string, Screen>> = {
  runs: { title: "Runs", label: "Runs", load: async () => (await import("./screens/runs/runs.tsx")).Runs },
  run: { title: "Run", load: async () => (await import("./screens/run/run.tsx")).Run },
  compare: { title: "Compare", load: async () => (await import("./screens/compare/compare.tsx")).Compare },
  plan: { title: "Plan", label: "Plan", load: async () => (await import("./screens/plan/plan.tsx")).Plan },
  data: { title: "Data", label: "Data", load: async () => (await import("./screens/data/data.tsx")).Data },
  chat: { title: "Chat", label: "Chat", load: async () => (await import("./screens/chat/chat.tsx")).Chat },
  newRun: {
    title: "New run",
    label: "New run",
    load: async () => (await import("./screens/newRun/newRun.tsx")).NewRun,
  },
};

export const START = "runs";
