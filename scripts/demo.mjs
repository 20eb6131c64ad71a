import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ROOT, STATE_DIR, VENV_BIN } from "./bootstrap/paths.mjs";

/** The whole system on this machine: makes the data, starts `pc dev` with a home of its own, and runs examples/demo.py against it. */

const HOME = join(STATE_DIR, "demo");
const DATA = join(STATE_DIR, "data", "lineitem.parquet");
const START_MS_MAX = 120_000;

makeLineitem();
const dev = await startDev();
const code = await runExample(dev.started);
await dev.stop();
process.exit(code);

/** TPC-H lineitem at scale factor 1: 6 million rows. */
function makeLineitem() {
  if (existsSync(DATA)) return;
  console.log("Making TPC-H lineitem at scale factor 1 ...");
  const draft = join(STATE_DIR, "data", "draft");
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft, { recursive: true });
  const args = ["parquet", "-s", "1", "--tables", "lineitem", "--output-dir", draft];
  const made = spawnSync(join(VENV_BIN, "tpchgen-cli"), args, { stdio: ["ignore", "ignore", "inherit"] });
  if (made.status !== 0) throw new Error("tpchgen-cli could not make the data");
  renameSync(join(draft, "lineitem.parquet"), DATA);
  rmSync(draft, { recursive: true });
}

async function startDev() {
  console.log("Starting Frazil (pc dev) ...");
  const args = [join(ROOT, "cli/src/main.ts"), "dev", "--home", HOME, "--json"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const stop = async () => {
    child.kill("SIGTERM");
    await ended;
  };
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => void stop().then(() => process.exit(130)));
  const started = await new Promise((resolve, reject) => {
    const overdue = setTimeout(() => reject(new Error("pc dev did not start in time")), START_MS_MAX);
    createInterface(child.stdout).once("line", (line) => {
      clearTimeout(overdue);
      resolve(JSON.parse(line));
    });
    void ended.then((exitCode) => reject(new Error(`pc dev ended with ${exitCode}`)));
  });
  return { started, stop };
}

function runExample({ address, token }) {
  const env = { ...process.env, FRAZIL_ADDRESS: address, FRAZIL_TOKEN: token, PYTHONPATH: join(ROOT, "client/src") };
  const args = [join(ROOT, "examples/demo.py"), DATA, join(HOME, "output")];
  const child = spawn(join(VENV_BIN, "python"), args, { stdio: "inherit", env });
  return new Promise((resolve) => child.on("exit", (exitCode) => resolve(exitCode ?? 1)));
}
