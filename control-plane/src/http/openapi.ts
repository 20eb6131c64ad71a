import {
  IDEMPOTENCY_KEY_CHARS_MAX,
  PAGE_SIZE_DEFAULT,
  PAGE_SIZE_MAX,
  Problem,
  ProblemDocument,
  WAIT_SECONDS_MAX,
} from "@frazil/contracts";
import { OpenAPIHono, z } from "@hono/zod-openapi";
import type { AppEnv } from "./auth.ts";

/** An app whose validation faults are problems. */
export function newApp(): OpenAPIHono<AppEnv> {
  return new OpenAPIHono<AppEnv>({
    defaultHook: (result) => {
      if (result.success) return;
      const issues = result.error.issues
        .slice(0, 20)
        .map((issue) => ({ path: issue.path.join("."), message: issue.message }));
      const where = result.target === "json" ? "body" : result.target;
      throw new Problem("invalid_request", `The ${where} does not fit: ${issues[0]?.path}: ${issues[0]?.message}`, {
        issues,
      });
    },
  });
}

export function jsonContent<T extends z.ZodType>(schema: T, description: string) {
  return { description, content: { "application/json": { schema } } };
}

/** A component of the document that routes name by `$ref`, as zod describes it; the definitions that it needs become components too. */
export function registerSchema(app: OpenAPIHono<AppEnv>, name: string, schema: z.ZodType): void {
  const { $schema: _, $defs = {}, ...described } = z.toJSONSchema(schema, { io: "input" });
  const parts = {
    [name]: described,
    ...Object.fromEntries(Object.entries($defs).map(([id, part]) => [name + id, part])),
  };
  for (const [id, part] of Object.entries(parts)) {
    const text = JSON.stringify(part).replaceAll("#/$defs/", `#/components/schemas/${name}`);
    app.openAPIRegistry.registerComponent("schemas", id, JSON.parse(text));
  }
}

const PROBLEM = "Problem";
export function registerProblem(app: OpenAPIHono<AppEnv>): void {
  registerSchema(app, PROBLEM, ProblemDocument);
}

const problemContent = (description: string) => ({
  description,
  content: { "application/problem+json": { schema: { $ref: `#/components/schemas/${PROBLEM}` } } },
});

/** The problems that a route may answer, by HTTP status. 401, 500 and 503 may come from every route that takes a token. */
export function problems(...statuses: (400 | 404 | 408 | 409 | 413 | 415 | 422)[]) {
  const text = {
    400: "Not valid",
    404: "Not there, or not yours",
    408: "The body did not arrive in time",
    409: "Conflict",
    413: "Too large",
    415: "Content type not accepted",
    422: "Can't be carried out",
  };
  const all = statuses.map((status) => [status, problemContent(text[status])] as const);
  return {
    ...(Object.fromEntries(all) as Record<(typeof statuses)[number], ReturnType<typeof problemContent>>),
    401: problemContent("No valid token"),
    500: problemContent("A fault of ours"),
    503: problemContent("Not available right now; Retry-After says when to try again"),
  };
}

export const security = [{ token: [] }];

/** Of requests that make something: lost answers are no reason to make it twice. */
export const IdempotencyHeaders = z.object({
  "idempotency-key": z
    .string()
    .min(1)
    .max(IDEMPOTENCY_KEY_CHARS_MAX)
    .optional()
    .describe("A repeat with the same key and body gives what the first made; another body is refused."),
});

const NOT_OURS = "not a cursor of ours; give back nextCursor as it came";
const limit = z.coerce.number().int().min(1).max(PAGE_SIZE_MAX).default(PAGE_SIZE_DEFAULT);
/** Pages of what has ids. */
export const IdPageQuery = z.object({
  limit,
  cursor: z
    .string()
    .regex(/^[a-z]{2,4}_[0-9a-z]{26}$/, NOT_OURS)
    .optional(),
});
/** Pages of what is numbered within a job: tasks, results, log lines. */
export const NumberPageQuery = z.object({
  limit,
  cursor: z
    .string()
    .regex(/^\d{1,15}$/, NOT_OURS)
    .optional(),
});

export const WaitSeconds = z.coerce.number().min(0).max(WAIT_SECONDS_MAX);

/** The number that a cursor is; -1 before the first. */
export function numberOf(cursor: string | undefined): number {
  return cursor === undefined ? -1 : Number(cursor);
}
