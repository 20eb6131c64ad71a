import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { devNull, tmpdir } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type GuardedProcess, spawnGuarded } from "@frazil/cli/dev/guarded-process";

/** From a Python wheel where there is one for the platform, else the machine's own. */
const PACKAGED = fileURLToPath(new URL("../../.venv/bin/redis-server", import.meta.url));
const START_ATTEMPTS_MAX = 5;
const READY_LIMIT_MS = 10_000;
const POLL_MS = 10;

let started: Promise<string> | undefined;

/** The address of a real, empty Redis for this test file. The first call starts it; it ends with the test file's process. */
export function redisUrl(): Promise<string> {
  started ??= startRedis();
  return started;
}

async function startRedis(): Promise<string> {
  const program = existsSync(PACKAGED) ? PACKAGED : "redis-server";
  for (let attempt = 1; attempt <= START_ATTEMPTS_MAX; attempt += 1) {
    const port = await findFreePort();
    const log = await open(devNull, "w");
    const address = ["--port", String(port), "--bind", "127.0.0.1", "--dir", tmpdir()];
    const options = { env: process.env, cwd: "/", logFd: log.fd };
    const redis = await spawnGuarded([program, ...address, "--save", "", "--appendonly", "no"], options);
    await log.close();
    if (await waitUntilReady(port, redis)) return `redis://127.0.0.1:${port}`;
    redis.interrupt();
  }
  throw new Error(`${program} does not start; install Redis, or run npm run setup on Linux x86-64, which brings one`);
}

async function waitUntilReady(port: number, redis: GuardedProcess): Promise<boolean> {
  const deadlineAt = Date.now() + READY_LIMIT_MS;
  while (Date.now() < deadlineAt && !redis.hasEnded()) {
    if (await answersPing(port)) return true;
    await delay(POLL_MS);
  }
  return false;
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"));
    socket.once("data", (data) => {
      resolve(data.toString() === "+PONG\r\n");
      socket.destroy();
    });
    socket.once("error", () => resolve(false));
    socket.once("close", () => resolve(false));
  });
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}
