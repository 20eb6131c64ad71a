import { describeApi, makeApp } from "@frazil/control-plane";

/** Routes reach what they depend on only when they are called; listing and describing them calls none. */
const NOTHING = new Proxy(Object.create(null), {
  get(_, name) {
    throw new Error(`describing the API needs no ${String(name)}`);
  },
});

export interface ApiDocument {
  readonly paths?: Readonly<Record<string, object>>;
}

export function makeApiDocument(): ApiDocument {
  return describeApi(makeApp(NOTHING));
}

/** `GET /v1/jobs/{id}` and so on, of the public API's document. */
export function routesOf(document: ApiDocument): string[] {
  return Object.entries(document.paths ?? {}).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
}

/** The same of all that the server answers to, middleware left out. */
export function servedRoutes(): string[] {
  const routes = makeApp(NOTHING).routes.filter((route) => route.method !== "ALL");
  return [...new Set(routes.map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, "{$1}")}`))];
}
