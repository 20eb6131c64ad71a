import type { Plan } from "@frazil/contracts";
import { usageError } from "./cli-error.ts";
import type { Io } from "./io.ts";
import type { KeyInput } from "./job-spec.ts";
import { expressionsOf, type KeySource, sentKeys } from "./partition-keys.ts";
import { type Origin, readOrigin, readPython, sqlOrigin } from "./plan-bytes.ts";
import { loadFrames, type PythonAnswer } from "./python-frames.ts";
import type { Target } from "./targets.ts";

/** A query ready to be sent, with a name to show. */
export interface Frame {
  readonly name: string;
  readonly plan: Plan;
}
export interface Queries {
  readonly frames: readonly Frame[];
  readonly keys: readonly KeyInput[];
  readonly origins: readonly Origin[];
}

/** Opens targets in order. Each Python file is run once, in the user's Python; the first one's names can be used in key expressions. */
export async function openTargets(
  io: Pick<Io, "env" | "cwd" | "stderr">,
  python: string,
  targets: readonly Target[],
  keys: readonly KeySource[],
  many: boolean,
): Promise<Queries> {
  const frames: Frame[] = [];
  const origins: Origin[] = [];
  let evaluated: PythonAnswer | undefined;
  for (const target of targets) {
    if (target.kind === "python") {
      const wanted = evaluated === undefined ? expressionsOf(keys) : [];
      const answer = await loadFrames(io, python, { script: target.script, name: target.frame, many, keys: wanted });
      evaluated ??= answer;
      for (const { name, bytes } of answer.frames) frames.push(dslFrame(name, bytes));
      origins.push(...answer.frames.map(({ name, bytes }) => pythonOrigin(`${target.name} (${name})`, bytes, answer)));
    } else if (target.kind === "plan") {
      origins.push(readOrigin(target.bytes, target.name));
      frames.push(dslFrame(target.name, target.bytes));
    } else {
      origins.push(sqlOrigin(target.name));
      frames.push({ name: target.name, plan: { kind: "sql", text: target.text } });
    }
  }
  const opened = await evaluateKeys(io, python, keys, evaluated);
  return { frames, keys: opened.keys, origins: [...origins, ...opened.origins] };
}

/** Keys with their expressions serialised; by Python, when no answer has them yet. */
export async function evaluateKeys(
  io: Pick<Io, "env" | "cwd" | "stderr">,
  python: string,
  keys: readonly KeySource[],
  before?: PythonAnswer,
): Promise<Pick<Queries, "keys" | "origins">> {
  const wanted = expressionsOf(keys);
  if (wanted.length === 0) return { keys: sentKeys(keys, []), origins: [] };
  const answer = before ?? (await loadFrames(io, python, { script: null, name: null, many: false, keys: wanted }));
  const origins = answer.keys.map(({ name, bytes }) => pythonOrigin(`--partition-by ${name}`, bytes, answer));
  return { keys: sentKeys(keys, answer.keys), origins };
}

/** What a Python that is running here wrote: its versions are known better than the bytes tell. */
function pythonOrigin(name: string, bytes: Buffer, answer: PythonAnswer): Origin {
  return { name, releases: [answer.polars], hasPython: readPython(bytes).hasPython, python: answer.python };
}

function dslFrame(name: string, bytes: Buffer): Frame {
  return { name, plan: { kind: "dsl", data: bytes.toString("base64") } };
}

/** The only frame of a single submission. */
export function onlyFrame(queries: Queries): Frame {
  const [frame] = queries.frames;
  if (frame === undefined || queries.frames.length > 1) {
    throw usageError(`there are ${queries.frames.length} queries here`, "run many with `pc spawn-many`");
  }
  return frame;
}
