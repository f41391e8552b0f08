/** One option of the form: its control, its help, and what is wrong with it. */
import { useId } from "preact/hooks";
import type { RunField } from "../../../../src/server/ui/newRun/newRunApi.ts";

interface FieldProps {
  field: RunField;
  value: string | boolean | undefined;
  problem: { error: string; fix?: string } | undefined;
  /** Values to offer for a text. */
  offers: readonly string[] | undefined;
  change: (value: string | boolean) => void;
}

export function Field({ field, value, problem, offers, change }: FieldProps) {
  const id = useId();
  const { key, help, required } = field;
  return (
    <div class={`run-field ${problem ? "run-wrong" : ""}`}>
      <label for={id}>
        {key}
        {required && <span class="muted"> (required)</span>}
      </label>
      <Control
        {...{ field, value, offers, change }}
        described={{
          id,
          "aria-describedby": `${id}-help${problem ? ` ${id}-problem` : ""}`,
          "aria-invalid": problem !== undefined,
        }}
      />
      <p id={`${id}-help`} class="muted run-help">
        {help}
      </p>
      {problem && (
        <p id={`${id}-problem`} class="run-problem" role="alert">
          {problem.error}
          {problem.fix && <span class="run-fix">{problem.fix}</span>}
        </p>
      )}
    </div>
  );
}

type ControlProps = Omit<FieldProps, "problem"> & {
  described: { id: string; "aria-describedby": string; "aria-invalid": boolean };
};

function Control({ field, value, offers, change, described }: ControlProps) {
  const { kind, choices, preset, many } = field;
  const text = value === undefined ? "" : String(value);
  if (kind === "switch")
    return (
      <input
        {...described}
        type="checkbox"
        checked={typeof value === "boolean" ? value : preset === "true"}
        onChange={({ currentTarget }) => change(currentTarget.checked)}
      />
    );
  if (choices)
    return (
      <select {...described} value={text} onChange={({ currentTarget }) => change(currentTarget.value)}>
        <option value="">{preset === undefined ? "default" : `default: ${preset}`}</option>
        {choices.map((choice) => (
          <option key={choice} value={choice}>
            {choice}
          </option>
        ))}
      </select>
    );
  if (many)
    return (
      <textarea
        {...described}
        rows={Math.max(1, text.split("\n").length)}
        placeholder={preset === undefined ? `${field.value}, one a line` : "default"}
        value={text}
        onInput={({ currentTarget }) => change(currentTarget.value)}
      />
    );
  return <TextField {...{ field, offers, change, described }} value={text} />;
}

function TextField({ field, value, offers, change, described }: ControlProps & { value: string }) {
  return (
    <>
      <input
        {...described}
        type="text"
        inputMode={field.numeric ? "decimal" : "text"}
        autocomplete="off"
        spellcheck={false}
        placeholder={field.preset ?? (field.required ? field.value : "")}
        value={value}
        {...(offers && { list: `${described.id}-offers` })}
        onInput={({ currentTarget }) => change(currentTarget.value)}
      />
      {offers && (
        <datalist id={`${described.id}-offers`}>
          {offers.map((offer) => (
            <option key={offer} value={offer} />
          ))}
        </datalist>
      )}
    </>
  );
}
