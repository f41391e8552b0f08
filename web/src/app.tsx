/** The shell: navigation, choice of theme, and the screen that the address names. */

import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { lostConnection } from "./live/follow.ts";
import { Problem } from "./parts/states.tsx";
import { hrefOf, route } from "./router.ts";
import { SCREENS, START } from "./screens.ts";
import { chooseTheme, type Theme, theme } from "./theme.ts";

export function App() {
  const name = route.value.screen || START;
  return (
    <>
      <button type="button" class="skip" onClick={() => document.getElementById("main")?.focus()}>
        Skip to content
      </button>
      <header class="shell-bar">
        <a class="shell-name" href={hrefOf(START)}>
          lorafit
        </a>
        <nav aria-label="Screens">
          <ul class="shell-nav">
            {Object.entries(SCREENS).map(
              ([key, { label }]) =>
                label && (
                  <li key={key}>
                    <a href={hrefOf(key)} aria-current={key === name ? "page" : undefined}>
                      {label}
                    </a>
                  </li>
                ),
            )}
          </ul>
        </nav>
        <ThemeChoice />
      </header>
      {lostConnection.value && (
        <p class="lost" role="status">
          {[lostConnection.value.message, ...lostConnection.value.fix].join(" ")}
        </p>
      )}
      <main id="main" tabIndex={-1}>
        <Opened name={name} />
      </main>
    </>
  );
}

/** Shows a screen once its code is here. */
function Opened({ name }: { name: string }) {
  const [opened, setOpened] = useState<{ name: string; Screen?: ComponentType; problem?: unknown }>();
  const isFirst = useRef(true);
  useEffect(() => {
    let isWanted = true;
    const screen = SCREENS[name];
    if (!screen) {
      setOpened({ name, problem: new Error(`There is no screen "${name}".`) });
      return;
    }
    document.title = `${screen.title} - lorafit`;
    screen.load().then(
      (Screen) => isWanted && setOpened({ name, Screen }),
      (problem: unknown) => isWanted && setOpened({ name, problem }),
    );
    if (!isFirst.current) window.scrollTo(0, 0);
    isFirst.current = false;
    return () => {
      isWanted = false;
    };
  }, [name]);
  if (opened?.name !== name) return null;
  if (opened.Screen) return <opened.Screen />;
  return <Problem of={opened.problem} />;
}

const THEMES: Record<Theme, string> = { system: "System", light: "Light", dark: "Dark" };

function ThemeChoice() {
  return (
    <label class="shell-theme">
      <span aria-hidden="true">Theme</span>
      <select
        aria-label="Theme"
        value={theme.value}
        onChange={(event) => chooseTheme(event.currentTarget.value as Theme)}
      >
        {Object.entries(THEMES).map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}
