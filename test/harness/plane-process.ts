import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Api, openApi } from "./api.ts";

const MAIN = fileURLToPath(new URL("../../control-plane/src/main.ts", import.meta.url));

/** A control plane in a process of its own, which may be killed. */
export interface PlaneProcess {
  readonly address: string;
  readonly api: Api;
  /** Resolves to the exit code, or to the signal that ended it. */
  readonly exited: Promise<number | string>;
  kill(signal?: NodeJS.Signals): Promise<number | string>;
}

export interface PlaneSetting {
  /** Starts one, on the same database, with the same key and the same token each time. */
  start(): Promise<PlaneProcess>;
  close(): Promise<void>;
}

export async function makePlaneSetting(databaseUrl: string, env: Record<string, string> = {}): Promise<PlaneSetting> {
  const home = await mkdtemp(join(tmpdir(), "frazil-plane-process-"));
  const key = randomBytes(32).toString("base64");
  const children: ChildProcess[] = [];
  let token: string | undefined;
  return {
    async start() {
      const child = spawn(process.execPath, [MAIN], {
        stdio: ["ignore", "inherit", "inherit", "ipc"],
        env: {
          PATH: process.env.PATH,
          DATABASE_URL: databaseUrl,
          FRAZIL_PORT: "0",
          FRAZIL_HOME: home,
          FRAZIL_KEY: key,
          FRAZIL_LOG_LEVEL: "error",
          FRAZIL_BOOTSTRAP_WORKSPACE: "mine",
          ...(token === undefined ? {} : { FRAZIL_BOOTSTRAP_TOKEN: token }),
          ...env,
        },
      });
      children.push(child);
      const exited = once(child, "exit").then(([code, signal]) => (code ?? signal) as number | string);
      const ended = exited.then((how) => {
        throw new Error(`the control plane ended with ${how} before it listened`);
      });
      const [started] = (await Promise.race([once(child, "message"), ended])) as [{ address: string; token: string }];
      ended.catch(() => undefined);
      token = started.token;
      return {
        address: started.address,
        api: openApi(started.address, started.token),
        exited,
        kill(signal = "SIGKILL") {
          child.kill(signal);
          return exited;
        },
      };
    },
    async close() {
      for (const child of children) child.kill("SIGKILL");
      await rm(home, { recursive: true });
    },
  };
}
