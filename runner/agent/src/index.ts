import { fileURLToPath } from "node:url";

/** The program that a cloud starts on each node, with the environment described in `NODE_ENV`. */
export const AGENT_MAIN = fileURLToPath(new URL("./main.ts", import.meta.url));
