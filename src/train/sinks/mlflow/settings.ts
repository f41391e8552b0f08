/** Reads where and how to report to MLflow, from the variables that MLflow's own clients read. */
import { UserError } from "../../../errors.ts";

export interface MlflowSettings {
  /** Address of the server, without credentials and without a slash at its end. */
  uri: string;
  /** Value of the header Authorization; undefined without credentials. */
  authorization: string | undefined;
  experiment: { name: string } | { id: string };
  /** Name of a new run; undefined: the output folder's. */
  runName: string | undefined;
  /** A run of the server to continue, instead of a new one. */
  runId: string | undefined;
}

const EXAMPLE = "MLFLOW_TRACKING_URI=http://127.0.0.1:5000";

/** Throws UserError if no server is named, or one that is not reached by HTTP. */
export function mlflowSettings(environment: NodeJS.ProcessEnv = process.env): MlflowSettings {
  const { MLFLOW_TRACKING_URI: text = "" } = environment;
  if (text === "")
    throw new UserError(
      "--report-to mlflow needs the address of a server, and MLFLOW_TRACKING_URI is not set.",
      {
        fix: `Set it, for example ${EXAMPLE}. A server of your own:  mlflow server --backend-store-uri sqlite:///mlflow.db`,
      },
    );
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "http:" && url?.protocol !== "https:")
    throw new UserError(`MLFLOW_TRACKING_URI is ${JSON.stringify(text)}, which is no address of HTTP.`, {
      fix: `Name a server, for example ${EXAMPLE}. Files and databases need one:  mlflow server --backend-store-uri ${text}`,
    });
  const { MLFLOW_EXPERIMENT_ID: id, MLFLOW_EXPERIMENT_NAME: name } = environment;
  return {
    uri: `${url.origin}${url.pathname}`.replace(/\/+$/, ""),
    authorization: authorizationOf(url, environment),
    experiment: id ? { id } : { name: name || "Default" },
    runName: environment.MLFLOW_RUN_NAME || undefined,
    runId: environment.MLFLOW_RUN_ID || undefined,
  };
}

function authorizationOf(url: URL, environment: NodeJS.ProcessEnv): string | undefined {
  const { MLFLOW_TRACKING_TOKEN: token, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD } = environment;
  const user = MLFLOW_TRACKING_USERNAME ?? decodeURIComponent(url.username);
  const password = MLFLOW_TRACKING_PASSWORD ?? decodeURIComponent(url.password);
  if (user !== "") return `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;
  return token ? `Bearer ${token}` : undefined;
}
