/** Screen "Chat": two adapters side by side on one picture. */
import { useRef, useState } from "preact/hooks";
import type { DataFiles } from "../../../../src/server/ui/data/dataApi.ts";
import { getJson } from "../../api.ts";
import { Empty, Loading, Problem } from "../../parts/states.tsx";
import { useLoaded } from "../../parts/useLoaded.ts";
import "./chat.css";
import { complete, type Message } from "./stream.ts";
import { type ChatServer, useServer } from "./useServer.ts";

export function Chat() {
  const loaded = useLoaded((signal) => getJson<DataFiles>("data/files", {}, signal), []);
  const server = useServer();
  return (
    <>
      <div class="screen-head">
        <h1>Chat</h1>
        <p class="muted">Two adapters side by side on one picture.</p>
      </div>
      {loaded.value ? (
        <div class="stack">
          <Serving found={loaded.value} server={server} />
          {server.state?.state === "ready" && <Talk models={server.state.models} />}
        </div>
      ) : loaded.state === "failed" ? (
        <Problem of={loaded.problem} retry={loaded.reload} />
      ) : (
        <Loading what="adapters" />
      )}
    </>
  );
}

/** Names that requests call the adapters. */
const NAMES = ["left", "right"] as const;

function Serving({ found, server }: { found: DataFiles; server: ChatServer }) {
  const { models, adapters, folder } = found;
  const [model, setModel] = useState(models[0] ?? "");
  const [chosen, setChosen] = useState<readonly string[]>([adapters[0] ?? "", adapters[1] ?? ""]);
  const [memory, setMemory] = useState("");
  const { state, problem } = server;
  const isRunning = state?.state === "ready" || state?.state === "starting";
  if (adapters.length === 0)
    return (
      <Empty>
        There are no adapters below <code>{folder}</code> yet: a run writes its adapter when it ends.
      </Empty>
    );
  const start = (): void => {
    const named = NAMES.flatMap((name, place) => (chosen[place] ? [[name, chosen[place]] as const] : []));
    server.start({ model, adapters: Object.fromEntries(named), memory: memory.trim() });
  };
  return (
    <form
      class="panel chat-choices"
      aria-label="Model and adapters"
      onSubmit={(event) => {
        event.preventDefault();
        start();
      }}
    >
      <label>
        Model{" "}
        <input
          value={model}
          list="chat-models"
          onInput={({ currentTarget }) => setModel(currentTarget.value)}
        />
      </label>
      <datalist id="chat-models">
        {models.map((name) => (
          <option key={name} value={name} />
        ))}
      </datalist>
      {NAMES.map((name, place) => (
        <label key={name}>
          {place === 0 ? "Left" : "Right"}{" "}
          <select
            value={chosen[place]}
            onChange={({ currentTarget }) =>
              setChosen(chosen.map((one, at) => (at === place ? currentTarget.value : one)))
            }
          >
            <option value="">no adapter</option>
            {adapters.map((path) => (
              <option key={path} value={path}>
                {path.slice(folder.length + 1)}
              </option>
            ))}
          </select>
        </label>
      ))}
      <label>
        Memory limit{" "}
        <input
          class="chat-memory"
          value={memory}
          placeholder="none"
          onInput={({ currentTarget }) => setMemory(currentTarget.value)}
        />
      </label>
      <button type="submit" class={isRunning ? "" : "primary"} disabled={model === ""}>
        {isRunning ? "Load again" : "Load"}
      </button>
      {isRunning && (
        <button type="button" onClick={server.stop}>
          Unload
        </button>
      )}
      <ServerState server={server} />
      {problem !== undefined && <Problem of={problem} />}
    </form>
  );
}

function ServerState({ server: { state } }: { server: ChatServer }) {
  const log = state?.state === "starting" || state?.state === "ended" ? state.log : "";
  const words = {
    none: "Not loaded.",
    starting: "Loading the model…",
    ready: "Ready.",
    ended: "It has ended.",
  };
  return (
    <div class="chat-state">
      <p role="status">{state ? words[state.state] : ""}</p>
      {log && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: long logs scroll, also by keyboard.
        <section tabIndex={0} aria-label="What the server printed">
          <pre>{log}</pre>
        </section>
      )}
    </div>
  );
}

interface Turn {
  question: string;
  /** Answers so far, left and right. */
  answers: readonly { text: string; isDone: boolean; problem?: unknown }[];
}

function Talk({ models }: { models: readonly string[] }) {
  const [turns, setTurns] = useState<readonly Turn[]>([]);
  const [picture, setPicture] = useState<string | undefined>(undefined);
  const [question, setQuestion] = useState("");
  const cancel = useRef<AbortController | undefined>(undefined);
  const isBusy = turns.some(({ answers }) => answers.some(({ isDone }) => !isDone));
  const sides = NAMES.map((name) => (models.includes(name) ? name : (models[0] ?? "base")));
  const ask = (): void => {
    const asked = question.trim();
    if (asked === "" || isBusy) return;
    cancel.current = new AbortController();
    const place = turns.length;
    setTurns([...turns, { question: asked, answers: sides.map(() => ({ text: "", isDone: false })) }]);
    setQuestion("");
    const change = (side: number, make: (answer: Turn["answers"][number]) => Turn["answers"][number]): void =>
      setTurns((now) =>
        now.map((turn, at) =>
          at === place
            ? { ...turn, answers: turn.answers.map((one, of) => (of === side ? make(one) : one)) }
            : turn,
        ),
      );
    for (const [side, model] of sides.entries()) {
      const messages = messagesOf([...turns, { question: asked, answers: [] }], side, picture);
      complete(
        { model, messages },
        (piece) => change(side, (answer) => ({ ...answer, text: answer.text + piece })),
        cancel.current.signal,
      ).then(
        () => change(side, (answer) => ({ ...answer, isDone: true })),
        (problem: unknown) => change(side, (answer) => ({ ...answer, isDone: true, problem })),
      );
    }
  };
  return (
    <>
      <form
        class="panel stack"
        aria-label="Question"
        onSubmit={(event) => {
          event.preventDefault();
          ask();
        }}
      >
        <label>
          Picture{" "}
          <input
            type="file"
            accept="image/*"
            onChange={async ({ currentTarget }) => {
              const [file] = currentTarget.files ?? [];
              setPicture(file && (await dataUrlOf(file)));
              setTurns([]);
            }}
          />
        </label>
        {picture && <img class="chat-picture" src={picture} alt="Shown to both" />}
        <label>
          Question
          <textarea
            rows={2}
            value={question}
            onInput={({ currentTarget }) => setQuestion(currentTarget.value)}
          />
        </label>
        <div class="row">
          <button type="submit" class="primary" disabled={isBusy || question.trim() === ""}>
            Ask both
          </button>
          {isBusy && (
            <button type="button" onClick={() => cancel.current?.abort()}>
              Stop
            </button>
          )}
          {turns.length > 0 && !isBusy && (
            <button type="button" onClick={() => setTurns([])}>
              Begin anew
            </button>
          )}
        </div>
      </form>
      {turns.map((turn, place) => (
        <section class="panel" key={`${place} ${turn.question}`} aria-busy={isBusy}>
          <h2 class="chat-question">{turn.question}</h2>
          <div class="chat-answers">
            {turn.answers.map(({ text, isDone, problem }, side) => (
              <article key={NAMES[side]} aria-label={`Answer of ${NAMES[side]}`}>
                <h3 class="muted">{sides[side] === NAMES[side] ? NAMES[side] : "no adapter"}</h3>
                <p class="chat-text">
                  {text}
                  {!isDone && "…"}
                </p>
                {problem !== undefined && <Problem of={problem} />}
              </article>
            ))}
          </div>
        </section>
      ))}
    </>
  );
}

/** Returns the dialogue of one side; its first question shows the picture. */
function messagesOf(turns: readonly Turn[], side: number, picture: string | undefined): Message[] {
  return turns.flatMap(({ question, answers }, place): Message[] => {
    const answer = answers[side]?.text;
    const shows = place === 0 && picture !== undefined;
    const content: Message["content"] = shows
      ? [
          { type: "image_url", image_url: { url: picture } },
          { type: "text", text: question },
        ]
      : question;
    return [{ role: "user", content }, ...(answer ? [{ role: "assistant", content: answer } as const] : [])];
  });
}

function dataUrlOf(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
