import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { BENCH_DIR, ROOT } from "./paths.ts";
import { roleOf, treeOf } from "./processes.ts";

/** A `pc dev` from the bundles. */
export interface Installation {
  readonly address: string;
  readonly token: string;
  readonly home: string;
  /** Of `pc dev` itself, from which the control plane and all else descend. */
  readonly pid: number;
  readonly environment: Readonly<Record<string, string>>;
  controlPlanePid(): number;
  stop(): Promise<void>;
}

export async function startInstallation(home: string): Promise<Installation> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("FRAZIL_")));
  const child = spawn(process.execPath, [join(ROOT, "dist/pc.mjs"), "dev", "--home", home, "--json"], {
    stdio: ["ignore", "pipe", "inherit"],
    env,
  });
  const pid = child.pid ?? 0;
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const started = await Promise.race([
    new Promise<{ address: string; token: string }>((resolve) => {
      createInterface(child.stdout).once("line", (line) => resolve(JSON.parse(line)));
    }),
    ended.then(() => Promise.reject(new Error("pc dev ended at its start"))),
  ]);
  const { address, token } = started;
  return {
    address,
    token,
    home,
    pid,
    environment: { FRAZIL_ADDRESS: address, FRAZIL_TOKEN: token, FRAZIL_PROGRESS: "0" },
    controlPlanePid() {
      const found = treeOf(pid).find((one) => roleOf(one) === "control plane");
      if (found === undefined) throw new Error("there is no control plane");
      return found.pid;
    },
    async stop() {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

/** Runs with an installation of its own, which is gone afterwards. */
export async function withInstallation<T>(work: (installation: Installation) => Promise<T>): Promise<T> {
  const home = await mkdtemp(join(BENCH_DIR, "home-"));
  const installation = await startInstallation(home);
  try {
    return await work(installation);
  } finally {
    await installation.stop();
    await rm(home, { recursive: true, force: true });
  }
}
