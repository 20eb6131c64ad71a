export { bootstrap } from "./bootstrap.ts";
export { type Config, readConfig } from "./config.ts";
export { openPool } from "./db/pool.ts";
export { describeApi, makeApp } from "./http/app.ts";
export { type ControlPlane, startControlPlane } from "./start.ts";
