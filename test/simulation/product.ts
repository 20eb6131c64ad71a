import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** The code under test. Loaded by its place, so that a copy with a planted fault can stand in for it. */
export interface Product {
  readonly submit: typeof import("../../control-plane/src/flow/submit.ts");
  readonly cancel: typeof import("../../control-plane/src/flow/cancel.ts");
  readonly retry: typeof import("../../control-plane/src/flow/retry.ts");
  readonly place: typeof import("../../control-plane/src/flow/place.ts");
  readonly steps: typeof import("../../control-plane/src/flow/steps.ts");
  readonly reconcile: typeof import("../../control-plane/src/flow/reconcile.ts");
  readonly dispatch: typeof import("../../control-plane/src/flow/dispatch.ts");
  readonly record: typeof import("../../control-plane/src/flow/record.ts");
  readonly templates: typeof import("../../control-plane/src/flow/templates.ts");
  readonly endings: typeof import("../../control-plane/src/flow/endings.ts");
  readonly messages: typeof import("../../control-plane/src/flow/node-messages.ts");
  readonly db: typeof import("../../control-plane/src/db/index.ts");
  readonly plans: typeof import("../../control-plane/src/db/plans.ts");
  readonly seal: typeof import("../../control-plane/src/domain/seal.ts");
  readonly tokens: typeof import("../../control-plane/src/domain/tokens.ts");
  readonly shape: typeof import("../../control-plane/src/domain/shape.ts");
}

const FILES = {
  submit: "flow/submit.ts",
  cancel: "flow/cancel.ts",
  retry: "flow/retry.ts",
  place: "flow/place.ts",
  steps: "flow/steps.ts",
  reconcile: "flow/reconcile.ts",
  dispatch: "flow/dispatch.ts",
  record: "flow/record.ts",
  templates: "flow/templates.ts",
  endings: "flow/endings.ts",
  messages: "flow/node-messages.ts",
  db: "db/index.ts",
  plans: "db/plans.ts",
  seal: "domain/seal.ts",
  tokens: "domain/tokens.ts",
  shape: "domain/shape.ts",
} as const satisfies Record<keyof Product, string>;

export async function loadProduct(sources: string): Promise<Product> {
  const load = async ([name, file]: [string, string]) => [
    name,
    await import(/* @vite-ignore */ pathToFileURL(join(sources, file)).href),
  ];
  return Object.fromEntries(await Promise.all(Object.entries(FILES).map(load))) as unknown as Product;
}
