export * from "./cloud.ts";
export { openLocalCloud } from "./clouds/local/local.ts";
