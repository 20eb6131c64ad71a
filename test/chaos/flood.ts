/** Puts messages of the lines `step id` of its input on the queue at the address that it is given: Redis or Postgres. */
import { text } from "node:stream/consumers";
import { createPostgresBackend, Queue, withBackend } from "bullmq";

const [url = ""] = process.argv.slice(2);
const lines = (await text(process.stdin)).split("\n").filter((line) => line !== "");
const messages = lines.map((line) => {
  const [step = "", id = ""] = line.split(" ");
  return { name: step, data: { step, id }, opts: { removeOnComplete: true, removeOnFail: true } };
});
const queue = openQueue();
queue.on("error", () => undefined);
await queue.addBulk(messages);
await queue.close();

function openQueue(): Queue {
  if (url.startsWith("redis")) return new Queue("steps", { connection: { url } });
  const connection = { connectionString: url, schema: "bullmq", migrate: true, max: 1 } as never;
  return new (withBackend(createPostgresBackend).Queue)("steps", { connection }) as unknown as Queue;
}
