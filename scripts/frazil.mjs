/** Entry of every npm script: needs only Node 20, npm 10 and Python 3.11; brings everything else itself, then runs the task. */
import { bootstrap } from "./bootstrap/bootstrap.mjs";
import { TASKS } from "./tasks.mjs";

const [name, ...args] = process.argv.slice(2);
const task = TASKS[name];
if (!task) {
  console.error(`unknown script ${JSON.stringify(name)}; there are: ${Object.keys(TASKS).join(", ")}`);
  process.exit(2);
}
try {
  process.exitCode = await task(await bootstrap(), args);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
