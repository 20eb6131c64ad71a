import type { Api } from "./api.ts";

export interface ServerEvent {
  readonly event: string;
  readonly id: string | undefined;
  readonly data: unknown;
}

/** Reads a stream of server-sent events until it ends, or until the reader stops. */
export async function* readEvents(
  api: Api,
  path: string,
  headers: Record<string, string> = {},
): AsyncGenerator<ServerEvent> {
  const stop = new AbortController();
  try {
    const response = await fetch(`${api.address}${path}`, {
      headers: { authorization: `Bearer ${api.token}`, ...headers },
      signal: stop.signal,
    });
    if (!response.ok || response.body === null) throw new Error(`${path} answered ${response.status}`);
    let rest = "";
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const fields = new Map(
          block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
        );
        const event = fields.get("event");
        if (event !== undefined) yield { event, id: fields.get("id"), data: JSON.parse(fields.get("data") ?? "null") };
      }
    }
  } finally {
    stop.abort();
  }
}
