import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT, VENV_BIN, VENV_DIR } from "./paths.mjs";
import { runQuietly } from "./run-command.mjs";
import { hashFiles, isStamped, writeStamp } from "./stamp.mjs";

const UV_VERSION = "0.13.8";
const REQUIREMENTS_FILE = join(ROOT, "requirements-dev.txt");
/** Put on the path instead of installed: edits count at once, and no build backend is needed. */
const OWN_SOURCES = [join(ROOT, "client", "src"), join(ROOT, "runner", "engine", "src")];
/** Inside the environment, so that deleting the environment deletes the stamp. */
const STAMP_FILE = join(VENV_DIR, "frazil.stamp");
const PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])";
const PACKAGES_FOLDER = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
const PYTHON_MINOR_MIN = 11;

export const pythonEnv = { name: "Python environment (.venv)", isReady: isInstalled, make: install };

function currentStamp() {
  return `${ROOT} ${UV_VERSION} ${hashFiles([REQUIREMENTS_FILE])}`;
}

function isInstalled() {
  return existsSync(join(VENV_BIN, "python")) && isStamped(STAMP_FILE, currentStamp());
}

async function install(env) {
  rmSync(STAMP_FILE, { force: true });
  if (!existsSync(join(VENV_BIN, "uv"))) {
    rmSync(VENV_DIR, { recursive: true, force: true });
    await runQuietly(await findPython(env), ["-m", "venv", VENV_DIR], { env });
    await runQuietly(join(VENV_BIN, "python"), ["-m", "pip", "install", "--quiet", `uv==${UV_VERSION}`], { env });
  }
  const uvEnv = { ...env, VIRTUAL_ENV: VENV_DIR, UV_PYTHON_DOWNLOADS: "never" };
  await runQuietly(join(VENV_BIN, "uv"), ["pip", "sync", "--quiet", REQUIREMENTS_FILE], { env: uvEnv });
  const packagesFolder = (await runQuietly(join(VENV_BIN, "python"), ["-c", PACKAGES_FOLDER], { env })).trim();
  writeFileSync(join(packagesFolder, "frazil-sources.pth"), `${OWN_SOURCES.join("\n")}\n`);
  writeStamp(STAMP_FILE, currentStamp());
}

/** The first Python of the machine that is new enough and can make environments. */
async function findPython(env) {
  const found = [];
  for (const command of ["python3", "python3.14", "python3.13", "python3.12", "python3.11"]) {
    try {
      const version = (await runQuietly(command, ["-c", PROBE], { env })).trim();
      const minor = Number(version.replace(/^3[.]/, ""));
      if (minor >= PYTHON_MINOR_MIN) return command;
      found.push(`${command} is ${version}`);
    } catch (error) {
      if (error.code !== "ENOENT") found.push(`${command} has no venv or pip module`);
    }
  }
  throw new Error(
    `Python 3.${PYTHON_MINOR_MIN} or newer with venv and pip is needed (${found.join("; ") || "no python3 on PATH"})`,
  );
}
