/** The sliders and choices of the Plan screen. */
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import type { PictureChoice, PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";
import { formatBytes, formatCount } from "../../lib/format.ts";
import { type Asked, nearestStep, type Size, STEPS } from "./asked.ts";

interface Controls {
  asked: Asked;
  choices: PlanChoices;
  /** The option that limits the model's pictures. */
  pictures: PictureChoice;
  change: (change: Partial<Asked>) => void;
}

const SIZES: readonly { key: Size; label: string; unit: string }[] = [
  { key: "maxLength", label: "max_length", unit: "tokens" },
  { key: "rank", label: "lora_r", unit: "" },
  { key: "batchSize", label: "batch_size", unit: "samples" },
];

export function PlanControls({ asked, choices, pictures, change }: Controls) {
  return (
    <form class="panel plan-controls" aria-label="What to plan" onSubmit={(event) => event.preventDefault()}>
      <DeviceChoice {...{ asked, choices, change }} />
      <Labelled label="Model">
        {(id) => (
          <>
            <input
              id={id}
              list={`${id}-models`}
              value={asked.model}
              onChange={({ currentTarget }) => change({ model: currentTarget.value, limits: {} })}
            />
            <datalist id={`${id}-models`}>
              {choices.models.map((model) => (
                <option key={model} value={model} />
              ))}
            </datalist>
          </>
        )}
      </Labelled>
      {SIZES.map(({ key, label, unit }) => (
        <Slider
          key={key}
          label={label}
          unit={unit}
          steps={STEPS[key]}
          value={asked[key]}
          change={(value) => change({ [key]: value })}
        />
      ))}
      <Slider
        label={pictures.option}
        unit={pictures.unit}
        steps={pictures.steps}
        value={asked.limits[pictures.option] ?? pictures.default}
        change={(value) => change({ limits: { [pictures.option]: value } })}
      />
      <Labelled label="Base">
        {(id) => (
          <select
            id={id}
            value={asked.base}
            onChange={({ currentTarget }) => change({ base: currentTarget.value })}
          >
            <option value="">as stored</option>
            {choices.bases.map((base) => (
              <option key={base} value={base}>
                {base}
              </option>
            ))}
          </select>
        )}
      </Labelled>
      <Labelled label="Weights">
        {(id) => (
          <select
            id={id}
            value={asked.weights}
            onChange={({ currentTarget }) => change({ weights: currentTarget.value })}
          >
            <option value="">the fastest that fits</option>
            <option value="resident">resident</option>
            <option value="streamed">streamed</option>
            {asked.cards > 1 && <option value="shared">shared among the cards</option>}
          </select>
        )}
      </Labelled>
    </form>
  );
}

function DeviceChoice({ asked, choices, change }: Omit<Controls, "pictures">) {
  const isAny = asked.device === "memory";
  return (
    <>
      <Labelled label="Card">
        {(id) => (
          <select
            id={id}
            value={asked.device}
            onChange={({ currentTarget: { value } }) =>
              change({ device: value, memory: value === "memory" ? asked.memory || "24GiB" : "" })
            }
          >
            <option value="memory">any card with…</option>
            {choices.cards.map(({ name, title, memoryBytes }) => (
              <option key={name} value={name}>
                {title}, {formatBytes(memoryBytes)}
              </option>
            ))}
            <option value="cpu">this machine's CPU</option>
          </select>
        )}
      </Labelled>
      {asked.device !== "cpu" && (
        <Labelled label="Number of cards">
          {(id) => (
            <select
              id={id}
              value={asked.cards}
              onChange={({ currentTarget }) => change({ cards: Number(currentTarget.value), weights: "" })}
            >
              {[...new Set([...STEPS.cards, asked.cards])].map((cards) => (
                <option key={cards} value={cards}>
                  {cards}
                </option>
              ))}
            </select>
          )}
        </Labelled>
      )}
      <Labelled label={isAny ? "Memory" : "Memory limit"}>
        {(id) => (
          <input
            id={id}
            value={asked.memory}
            placeholder={isAny ? "24GiB" : "all"}
            onChange={({ currentTarget }) => change({ memory: currentTarget.value })}
          />
        )}
      </Labelled>
    </>
  );
}

interface SliderProps {
  label: string;
  unit: string;
  steps: readonly number[];
  value: number;
  change: (value: number) => void;
}

/** A slider over steps, with a field for any value between. */
function Slider({ label, unit, steps, value, change }: SliderProps) {
  const typed = (text: string): void => {
    const number = Number(text);
    if (Number.isInteger(number) && number > 0) change(number);
  };
  return (
    <Labelled label={label}>
      {(id) => (
        <div class="plan-slider">
          <input
            id={id}
            type="range"
            min={0}
            max={steps.length - 1}
            value={nearestStep(steps, value)}
            aria-valuetext={`${formatCount(value)} ${unit}`.trim()}
            onInput={({ currentTarget }) => change(steps[Number(currentTarget.value)] ?? value)}
          />
          <input
            type="number"
            min={1}
            step={1}
            value={value}
            aria-label={`${label}, exactly`}
            onChange={({ currentTarget }) => typed(currentTarget.value)}
          />
        </div>
      )}
    </Labelled>
  );
}

function Labelled({ label, children }: { label: string; children: (id: string) => ComponentChildren }) {
  const id = useId();
  return (
    <div class="plan-control">
      <label for={id}>{label}</label>
      {children(id)}
    </div>
  );
}
